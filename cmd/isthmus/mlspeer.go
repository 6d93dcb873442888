package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/isthmus-chat/isthmus/mls"
)

// maxPeerLine bounds a request to the MLS peer: the largest message in base64,
// and half as much beside it.
const maxPeerLine = 2 * mls.MaxMessage

func (c *cli) devCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "dev", Short: "Tools for who develops with Isthmus", Args: cobra.NoArgs, RunE: needsSubcommand}
	var suites []string
	peer := &cobra.Command{
		Use: "mls-peer", Short: "Be an MLS client that another program drives: JSON lines in, JSON lines out", Args: cobra.NoArgs,
		Long: `Be an MLS client that another program drives.

Each line of the input is a request, a JSON object with an "op"; each line of
the output is its answer. The operations are in docs/MLS.md, "Driving a peer".
Keys and groups are held in memory and end with the input.`,
		Example: `  echo '{"id": 1, "op": "hello"}' | isthmus dev mls-peer`,
		RunE: func(*cobra.Command, []string) error {
			for _, s := range suites {
				if err := registerSuite(s); err != nil {
					return &usageError{fmt.Sprintf("--suite %s: %v", s, err)}
				}
			}
			return servePeer(c.in, c.out)
		},
	}
	peer.Flags().StringArrayVar(&suites, "suite", nil, "a further cipher suite, as number=KEM,KDF,AEAD,signature (HPKE's and TLS's numbers)")
	cmd.AddCommand(peer, c.devCACommand())
	return cmd
}

// registerSuite gives a number to a suite that a peer has under it.
func registerSuite(s string) error {
	number, params, ok := strings.Cut(s, "=")
	parts := strings.Split(params, ",")
	if !ok || len(parts) != 4 {
		return errors.New("number=KEM,KDF,AEAD,signature is wanted")
	}
	var n [5]uint16
	for i, part := range append([]string{number}, parts...) {
		v, err := strconv.ParseUint(part, 0, 16)
		if err != nil {
			return err
		}
		n[i] = uint16(v)
	}
	return mls.RegisterSuite(mls.Suite(n[0]), mls.SuiteParams{
		Name: "suite " + number, KEM: n[1], KDF: n[2], AEAD: n[3], Signature: mls.SignatureScheme(n[4]),
	})
}

// servePeer answers requests until the input ends.
func servePeer(in io.Reader, out io.Writer) error {
	r, w := bufio.NewReaderSize(in, 1<<16), bufio.NewWriterSize(out, 1<<16)
	answers := json.NewEncoder(w)
	answers.SetEscapeHTML(false)
	tool := &peerTool{clients: map[string]*peerClient{}}
	for {
		line, err := readPeerLine(r, maxPeerLine)
		if errors.Is(err, io.EOF) {
			return nil
		}
		var a *peerAnswer
		switch {
		case errors.Is(err, errPeerLine):
			a = &peerAnswer{Error: err.Error()}
		case err != nil:
			return err
		case len(bytes.TrimSpace(line)) == 0:
			continue
		default:
			a = tool.answer(line)
		}
		if err := answers.Encode(a); err != nil {
			return err
		}
		if r.Buffered() == 0 { // who sends many at once gets many at once
			if err := w.Flush(); err != nil {
				return err
			}
		}
	}
}

var errPeerLine = fmt.Errorf("a line longer than %d octets", maxPeerLine)

// readPeerLine reads one line of at most so many octets. One that is longer is
// read to its end and not kept.
func readPeerLine(r *bufio.Reader, most int) (line []byte, err error) {
	tooLong := false
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > most {
			tooLong, line = true, nil
		} else if !tooLong {
			line = append(line, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case err != nil && !(errors.Is(err, io.EOF) && (tooLong || len(line) > 0)):
			return nil, err
		case tooLong:
			return nil, errPeerLine
		default:
			return line, nil
		}
	}
}

// A peerRequest is one line of input; every operation reads its own fields.
type peerRequest struct {
	ID       json.RawMessage `json:"id"`
	Op       string          `json:"op"`
	Client   string          `json:"client"`
	Suite    mls.Suite       `json:"suite"`
	Identity string          `json:"identity"`
	Group    []byte          `json:"group"`

	LastResort  bool            `json:"last_resort"`
	Extensions  []peerExtension `json:"extensions"`
	Senders     [][]byte        `json:"external_senders"`
	KeyPackage  []byte          `json:"key_package"`
	KeyPackages [][]byte        `json:"key_packages"`
	Member      *uint32         `json:"member"`
	Members     []uint32        `json:"members"`
	PSK         []byte          `json:"psk"`
	PSKs        [][]byte        `json:"psks"`
	Secret      []byte          `json:"secret"`
	Type        uint16          `json:"type"`
	Epoch       uint64          `json:"epoch"`
	Index       uint32          `json:"index"`
	NewGroup    []byte          `json:"new_group"`

	Welcome     []byte `json:"welcome"`
	GroupInfo   []byte `json:"group_info"`
	RatchetTree []byte `json:"ratchet_tree"`
	Resync      bool   `json:"resync"`
	Message     []byte `json:"message"`
	Data        []byte `json:"data"`
	AAD         []byte `json:"aad"`
	Label       string `json:"label"`
	Context     []byte `json:"context"`
	Length      int    `json:"length"`
	Private     bool   `json:"private"`
	Tree        *bool  `json:"tree"`
}

// separate says that the tree is wanted beside the Welcome or GroupInfo.
func (q *peerRequest) separate() bool { return q.Tree != nil && !*q.Tree }

// A peerExtension is an extension of the group, by number.
type peerExtension struct {
	Type mls.ExtensionType `json:"type"`
	Data []byte            `json:"data"`
}

// A peerAnswer is one line of output.
type peerAnswer struct {
	ID    json.RawMessage `json:"id"`
	OK    bool            `json:"ok"`
	Error string          `json:"error,omitempty"`
	Rule  mls.Rule        `json:"rule,omitempty"`

	Name    string      `json:"name,omitempty"`
	Version string      `json:"version,omitempty"`
	Suites  []mls.Suite `json:"suites,omitempty"`
	Can     []string    `json:"can,omitempty"`

	KeyPackage     []byte       `json:"key_package,omitempty"`
	ExternalSender []byte       `json:"external_sender,omitempty"`
	Group          []byte       `json:"group,omitempty"`
	Commit         []byte       `json:"commit,omitempty"`
	Welcome        []byte       `json:"welcome,omitempty"`
	RatchetTree    []byte       `json:"ratchet_tree,omitempty"`
	Proposal       []byte       `json:"proposal,omitempty"`
	GroupInfo      []byte       `json:"group_info,omitempty"`
	Message        []byte       `json:"message,omitempty"`
	Secret         []byte       `json:"secret,omitempty"`
	Removed        bool         `json:"removed,omitempty"`
	Custom         []peerCustom `json:"custom,omitempty"`
	Data           *[]byte      `json:"data,omitempty"`
	AAD            *[]byte      `json:"aad,omitempty"`
	Sender         *uint32      `json:"sender,omitempty"`
	State          *peerState   `json:"state,omitempty"`
}

// A peerCustom is a proposal of a type without a meaning here that a commit took in.
type peerCustom struct {
	Type   mls.ProposalType `json:"type"`
	Sender uint32           `json:"sender"`
	Data   []byte           `json:"data"`
}

// A peerState is what all members of an epoch agree on.
type peerState struct {
	Epoch         uint64       `json:"epoch"`
	Members       []peerMember `json:"members"`
	Authenticator []byte       `json:"epoch_authenticator"`
	TreeHash      []byte       `json:"tree_hash"`
}

type peerMember struct {
	Index    uint32 `json:"index"`
	Identity string `json:"identity"`
}

// A peerTool is all clients of one process, by the names that the driver gave.
type peerTool struct{ clients map[string]*peerClient }

// answer carries out one request. A refusal is an answer, too.
func (t *peerTool) answer(line []byte) *peerAnswer {
	q := new(peerRequest)
	err := json.Unmarshal(line, q)
	if err != nil {
		err = fmt.Errorf("not a request: %w", err)
	}
	a := &peerAnswer{}
	if err == nil {
		err = t.do(q, a)
	}
	if err != nil {
		a = &peerAnswer{Error: err.Error(), Rule: mls.RuleOf(err)}
	}
	a.ID, a.OK = q.ID, err == nil
	return a
}

// A peerOp is one operation of a client.
type peerOp func(c *peerClient, q *peerRequest, a *peerAnswer) error

// openingOps are those that may be a client's first.
var openingOps = map[string]peerOp{
	"key_package":     (*peerClient).keyPackage,
	"external_sender": (*peerClient).externalSender,
	"create":          (*peerClient).create,
	"external_join":   (*peerClient).externalJoin,
	"psk":             (*peerClient).psk,
	"propose_join":    (*peerClient).proposeJoin,
}

func (t *peerTool) do(q *peerRequest, a *peerAnswer) error {
	if q.Op == "hello" {
		return hello(a)
	}
	c := t.clients[q.Client]
	if op, ok := openingOps[q.Op]; ok {
		if q.Client == "" {
			return errors.New("a request without a client")
		}
		if c == nil {
			c = newPeerClient()
			t.clients[q.Client] = c
		}
		return op(c, q, a)
	}
	free, ok := clientOps[q.Op]
	member, inGroup := groupOps[q.Op]
	switch {
	case !ok && !inGroup:
		return fmt.Errorf("unknown operation %q", q.Op)
	case c == nil:
		return fmt.Errorf("unknown client %q", q.Client)
	case ok:
		return free(c, q, a)
	}
	g, err := c.group(q.Group)
	if err != nil {
		return err
	}
	c.config.PrivateHandshakes = q.Private
	if err := member(c, g, q, a); err != nil {
		return err
	}
	c.store(c.groups[string(q.Group)]) // another than g after a restart
	if a.State == nil {                // else the operation was about another group as well
		a.State = stateOf(g)
	}
	return nil
}

// hello says what there is: the operations, and features of them.
func hello(a *peerAnswer) error {
	a.Name, a.Version, a.Suites = "isthmus", version().Version, mls.Suites()
	a.Can = append(a.Can, "key_package", "create", "add", "remove", "update", "commit",
		"propose_add", "propose_remove", "propose_update", "propose_psk", "propose_reinit", "propose_extensions",
		"propose_self_remove", "propose_custom", "propose_join", "propose_external", "external_sender",
		"join", "external_join", "group_info", "process", "seal", "open", "export", "psk",
		"reinit", "reinit_group", "branch", "restart", "state",
		"private", "propose", "resync", "tree", "last_resort", "aad", "sender", "rule",
		"tree_hash", "epoch_authenticator", "past_epochs")
	return nil
}

// parallel runs f(0) to f(n-1) on all processors: the packages of MLS start no
// goroutine of their own. The caller only waits: where it was one of the
// workers, commits took a fifth longer, for the one goroutine that it started
// stayed beside it until another processor came to look.
func parallel(n int, f func(int)) {
	workers := min(runtime.GOMAXPROCS(0), n)
	if workers < 2 {
		for i := range n {
			f(i)
		}
		return
	}
	var next atomic.Int64
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				f(int(i))
			}
		})
	}
	running.Wait()
}
