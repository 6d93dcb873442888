package main

import (
	"context"
	"crypto/ed25519"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/configs"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/store"
)

// databaseFile is the SQLite database in the data directory.
const databaseFile = "isthmus.db"

// A house is an open homeserver: its store and the runtime over it. With no
// bridges it serves one command; with them it is the server.
type house struct {
	cfg  *configs.Config
	key  ed25519.PrivateKey
	log  *slog.Logger
	db   *store.DB
	reg  *prometheus.Registry
	rt   *bridges.Runtime
	nets *networks
}

// storeOptions says where cfg's database is.
func storeOptions(cfg *configs.Config, log *slog.Logger) (store.Options, error) {
	url, err := cfg.DatabaseURL()
	if err != nil {
		return store.Options{}, err
	}
	if url == "" {
		url = configs.Secret("sqlite:" + filepath.Join(cfg.DataDir, databaseFile))
	}
	return store.Options{URL: url.Reveal(), Homeserver: cfg.Domain, Log: log}, nil
}

// openStore opens cfg's database with the schema that it has.
func openStore(ctx context.Context, cfg *configs.Config, log *slog.Logger) (*store.DB, error) {
	o, err := storeOptions(cfg, log)
	if err != nil {
		return nil, err
	}
	o.Keep = true
	return store.Open(ctx, o)
}

// openCurrent opens cfg's database with the schema of this version: serve migrates an
// older one, and every other command refuses it, for after a look there must still be a
// way back to the version before. A new database has nothing to go back to. With a key
// that is not the homeserver's, nothing is changed.
func openCurrent(ctx context.Context, cfg *configs.Config, log *slog.Logger, migrate bool) (*store.DB, error) {
	db, err := openStore(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	switch err = checkKey(ctx, cfg, db); {
	case err != nil:
	case migrate || db.Schema() == "":
		_, err = db.Migrate(ctx)
	case len(db.Pending()) > 0:
		err = core.Errorf(core.Unsupported, "the database has an older schema, %s: back it up, then `isthmus migrate` or `isthmus serve` brings it to %s", db.Schema(), newestOf(db))
	}
	if err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

// newestOf is the schema that migrating an older one comes to.
func newestOf(db *store.DB) string {
	p := db.Pending()
	return p[len(p)-1]
}

// openHouse opens the store, which takes its lock, and prepares the runtime;
// with bridges, it opens their listeners too.
func openHouse(ctx context.Context, cfg *configs.Config, log *slog.Logger, withBridges bool) (*house, error) {
	h := &house{cfg: cfg, log: log, reg: prometheus.NewRegistry()}
	var err error
	if h.db, err = openCurrent(ctx, cfg, log, withBridges); err != nil {
		return nil, err
	}
	if h.key, err = readKey(cfg); err != nil {
		h.db.Close()
		return nil, err
	}
	h.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	block, err := identity.ParseBlocklist(cfg.Federation.Block)
	if err != nil {
		h.db.Close()
		return nil, &configs.Error{Problems: []string{"federation.block: " + err.Error()}}
	}
	var bs []bridges.Bridge
	agreed := newAgreement(log, h.reg)
	if withBridges {
		if h.nets, err = openNetworks(ctx, cfg, nativeParts{h.key, block, agreed.awake.Load}, h.reg, log); err != nil {
			h.db.Close()
			return nil, err
		}
		bs = h.nets.bridges()
	}
	h.rt = bridges.NewRuntime(bridges.RuntimeConfig{
		Store: h.db,
		Engine: func() bridges.Decider {
			return agreed.decider(core.Config{Homeserver: cfg.Domain, Key: h.key, Block: block})
		},
		Bridges:    bs,
		Log:        log,
		Registerer: h.reg,
		Holder:     cfg.Domain,
		MaxAge:     time.Duration(cfg.ExpireAfter),
	})
	return h, nil
}

// admin returns what carries out the operator's commands on h.
func (h *house) admin() *admin {
	a := &admin{gw: h.rt, domain: h.cfg.Domain, fold: channelFold(h.cfg), backup: h.db.Backup, key: h.key,
		passwords: passwords(h.cfg), started: time.Now(), now: time.Now}
	a.caps, a.names = capsOf(h.cfg), map[string]core.Network{}
	for _, m := range h.cfg.Matrix {
		a.names[m.Name] = matrixNetwork(m)
	}
	if h.nets != nil {
		a.linkers, a.peers = h.nets.linkers(), h.nets.native
	}
	return a
}

// hasDatabase reports whether there is a database to look at: opening SQLite's would make it.
func hasDatabase(cfg *configs.Config) bool {
	if cfg.Database.URL != "" || cfg.Database.URLFile != "" {
		return true
	}
	_, err := os.Stat(filepath.Join(cfg.DataDir, databaseFile))
	return !os.IsNotExist(err)
}

func noHomeserver(cfg *configs.Config) error {
	return core.Errorf(core.NotFound, "there is no homeserver in %s: `isthmus init` or `isthmus serve` makes one", cfg.DataDir)
}

// open returns a caller for one command: to the server that runs on the data
// directory, or to the store itself if none does.
func (c *cli) open(ctx context.Context) (caller, error) {
	cfg, err := c.config()
	if err != nil {
		return nil, err
	}
	if r := dialControl(cfg.DataDir); r != nil {
		return r, nil
	}
	if _, err := os.Stat(cfg.Path(cfg.KeyFile)); err != nil {
		if err := missingKey(ctx, cfg); err != nil {
			return nil, err
		}
		return nil, noHomeserver(cfg)
	}
	h, err := openHouse(ctx, cfg, slog.New(slog.DiscardHandler), false)
	if err != nil {
		return nil, err
	}
	runCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- h.rt.Run(runCtx) }()
	return &local{h.admin(), func() error {
		stop()
		<-done
		return h.db.Close()
	}}, nil
}

// do performs one operation and shows the answer.
func do[Resp any](c *cli, ctx context.Context, name string, req any, text func(io.Writer, Resp)) error {
	conn, err := c.open(ctx)
	if err != nil {
		return err
	}
	var resp Resp
	err = conn.call(ctx, name, req, &resp)
	if cerr := conn.close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return c.show(resp, func(w io.Writer) { text(w, resp) })
}
