package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/isthmus-chat/isthmus/bridges/native"
	"github.com/isthmus-chat/isthmus/core"
)

// A federator knows how it goes with other homeservers.
type federator interface {
	Peers() []native.PeerState
	RetryPeer(domain string) error
}

type peerInfo struct {
	Domain   string     `json:"domain"`
	State    string     `json:"state"` // "well", "away", "quiet", "blocked", "alarm"
	Address  string     `json:"address,omitempty"`
	Fixed    bool       `json:"fixed"` // the address stands in the configuration
	Rooms    int        `json:"rooms"`
	Waiting  int        `json:"waiting"` // rooms with messages that it does not have yet
	Octets   int        `json:"octets"`  // of them in memory
	Failures int        `json:"failures"`
	Problem  string     `json:"problem,omitempty"`
	Alarm    bool       `json:"alarm,omitempty"` // it served keys that do not follow from those pinned
	Since    *time.Time `json:"since,omitempty"`
	Next     *time.Time `json:"next,omitempty"`
	Last     *time.Time `json:"last,omitempty"`
}

type peerList struct {
	Peers []peerInfo `json:"peers"`
}

type peerRef struct {
	Domain string `json:"domain"`
}

func describePeer(p native.PeerState) peerInfo {
	moment := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		return &t
	}
	i := peerInfo{Domain: p.Domain, Address: p.Address, Fixed: p.Fixed, Rooms: p.Rooms, Waiting: p.Waiting, Octets: p.Octets,
		Failures: p.Failures, Problem: p.Problem, Since: moment(p.Since), Next: moment(p.Next), Last: moment(p.Last)}
	switch {
	case p.Blocked:
		i.State = "blocked"
	case p.Failures > 0:
		i.State = "away"
	case p.Last.IsZero():
		i.State = "quiet"
	default:
		i.State = "well"
	}
	return i
}

func (a *admin) federation() (federator, error) {
	if a.peers == nil {
		return nil, core.Errorf(core.Unavailable, "only a running server meets other homeservers: start it with `isthmus serve`")
	}
	return a.peers, nil
}

// peerList has those that are under an alarm too, whether or not anything is shared
// with them now.
func (a *admin) peerList(ctx context.Context, _ nothing) (peerList, error) {
	f, err := a.federation()
	if err != nil {
		return peerList{}, err
	}
	var alarms []core.Value
	err = a.gw.View(ctx, func(r core.Reader) (err error) {
		alarms, err = core.AlarmsOf(r, "", maxListed)
		return err
	})
	if err != nil {
		return peerList{}, err
	}
	states := f.Peers()
	for _, v := range alarms {
		if !slices.ContainsFunc(states, func(p native.PeerState) bool { return p.Domain == v.Key }) {
			states = append(states, native.PeerState{Domain: v.Key})
		}
	}
	slices.SortFunc(states, func(a, b native.PeerState) int { return strings.Compare(a.Domain, b.Domain) })
	out := peerList{Peers: []peerInfo{}}
	for _, p := range states {
		i := describePeer(p)
		if slices.ContainsFunc(alarms, func(v core.Value) bool { return v.Key == p.Domain }) {
			i.State, i.Alarm = "alarm", true
		}
		out.Peers = append(out.Peers, i)
	}
	return out, nil
}

func (a *admin) peerShow(ctx context.Context, req peerRef) (peerInfo, error) {
	all, err := a.peerList(ctx, nothing{})
	if err != nil {
		return peerInfo{}, err
	}
	for _, p := range all.Peers {
		if p.Domain == req.Domain {
			return p, nil
		}
	}
	return peerInfo{}, core.Errorf(core.NotFound, "this homeserver has nothing to do with %q", req.Domain)
}

func (a *admin) peerRetry(ctx context.Context, req peerRef) (peerInfo, error) {
	f, err := a.federation()
	if err != nil {
		return peerInfo{}, err
	}
	if err := f.RetryPeer(req.Domain); err != nil {
		return peerInfo{}, err
	}
	return a.peerShow(ctx, req)
}

func (c *cli) peerCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "peer", Short: "See how it goes with other homeservers", Args: cobra.NoArgs, RunE: needsSubcommand}
	cmd.AddCommand(
		&cobra.Command{
			Use: "list", Short: "List the homeservers that this one has to do with", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return do(c, cmd.Context(), "peer.list", nothing{}, printPeers)
			},
		},
		&cobra.Command{
			Use: "show DOMAIN", Short: "Show one homeserver, and why it is away", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return do(c, cmd.Context(), "peer.show", peerRef{args[0]}, printPeer)
			},
		},
		&cobra.Command{
			Use: "retry DOMAIN", Short: "Try a homeserver again now", Args: cobra.ExactArgs(1),
			Long: "peer retry does not wait for the next attempt: what is queued for the homeserver is sent now.",
			RunE: func(cmd *cobra.Command, args []string) error {
				return do(c, cmd.Context(), "peer.retry", peerRef{args[0]}, func(w io.Writer, p peerInfo) {
					fmt.Fprintf(w, "Trying %s again: see `isthmus peer show %s`.\n", p.Domain, p.Domain)
				})
			},
		},
		c.peerEvidenceCommand(),
	)
	return cmd
}

func printPeers(w io.Writer, l peerList) {
	if len(l.Peers) == 0 {
		fmt.Fprintln(w, "No other homeservers yet: they appear with the first room that is shared with them.")
		return
	}
	fmt.Fprintln(w, "DOMAIN\tSTATE\tROOMS\tWAITING\tFAILURES\tPROBLEM")
	for _, p := range l.Peers {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%s\n", p.Domain, p.State, p.Rooms, p.Waiting, p.Failures, clip(p.Problem))
	}
}

func printPeer(w io.Writer, p peerInfo) {
	when := func(name string, t *time.Time) {
		if t != nil {
			fmt.Fprintf(w, "%s\t%s\n", name, t.UTC().Format("2006-01-02 15:04:05"))
		}
	}
	where := p.Address
	switch {
	case where == "":
		where = "not known yet"
	case p.Fixed:
		where += " (from the configuration)"
	}
	fmt.Fprintf(w, "Homeserver\t%s\nState\t%s\nAddress\t%s\nRooms shared\t%d\nRooms waiting\t%d (%d octets in memory)\n",
		p.Domain, p.State, where, p.Rooms, p.Waiting, p.Octets)
	if p.Alarm {
		fmt.Fprintln(w, "Alarm\tit served keys that do not follow from those pinned here: they are refused until you know why")
	}
	when("Last answer", p.Last)
	if p.Failures > 0 {
		fmt.Fprintf(w, "Failures\t%d in a row: %s\n", p.Failures, clip(p.Problem))
		when("Since", p.Since)
		when("Next attempt", p.Next)
	}
}
