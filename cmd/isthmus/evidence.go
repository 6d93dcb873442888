package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/epoch"
)

// An evidence is a lie that a homeserver's own signatures prove: it approved two
// commits for one epoch of a room (PROTOCOL §6).
type evidence struct {
	Homeserver string      `json:"homeserver"`
	Room       core.RoomID `json:"room"`
	Epoch      uint64      `json:"epoch"`
	Proof      []byte      `json:"proof"` // both approvals, as epoch.ParseProof reads them
}

type evidenceList struct {
	Evidence []evidence `json:"evidence"`
	More     bool       `json:"more,omitempty"` // the list was cut
}

func (a *admin) peerEvidence(ctx context.Context, _ nothing) (evidenceList, error) {
	out := evidenceList{Evidence: []evidence{}}
	return out, a.gw.View(ctx, func(r core.Reader) error {
		rows, err := epoch.Proofs(r, "", maxListed+1)
		if err != nil {
			return err
		}
		out.More = len(rows) > maxListed
		for _, row := range rows[:min(len(rows), maxListed)] {
			p, err := epoch.ParseProof(row.Data)
			if err != nil {
				return core.Errorf(core.Internal, "stored proof: %w", err)
			}
			said, _ := p.Approvals()
			out.Evidence = append(out.Evidence, evidence{said.Domain, said.Room, said.Epoch, row.Data})
		}
		return nil
	})
}

func (c *cli) peerEvidenceCommand() *cobra.Command {
	return &cobra.Command{
		Use: "evidence", Short: "List the lies of homeservers that their own signatures prove", Args: cobra.NoArgs,
		Long: "peer evidence lists which homeservers have approved two different commits for one epoch of a\n" +
			"room. With --json each comes with both signed approvals, which anybody can check.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return do(c, cmd.Context(), "peer.evidence", nothing{}, printEvidence)
		},
	}
}

func printEvidence(w io.Writer, l evidenceList) {
	if len(l.Evidence) == 0 {
		fmt.Fprintln(w, "No homeserver has been caught lying.")
		return
	}
	fmt.Fprintln(w, "HOMESERVER\tROOM\tEPOCH\tLIE")
	for _, e := range l.Evidence {
		fmt.Fprintf(w, "%s\t%s\t%d\tapproved two commits\n", e.Homeserver, e.Room, e.Epoch)
	}
	if l.More {
		fmt.Fprintf(w, "Only the first %d are listed.\n", len(l.Evidence))
	}
}
