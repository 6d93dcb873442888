// Package configs is what an operator may set: the default file, which is also
// its documentation, the typed Config, and a strict loader.
//
// Nothing is guessed. A key that no field stands for stops the start with the
// file and line where it was written, and so does a number where a unit is due.
package configs

import (
	_ "embed"
	"path/filepath"
)

// Default is the default configuration, with a comment for every key.
//
//go:embed default.yaml
var Default []byte

// A Config is everything an operator may set. default.yaml says what each key
// means; the yaml tag of a field is its key.
type Config struct {
	Domain      string     `yaml:"domain"`
	Network     string     `yaml:"network"`
	DataDir     string     `yaml:"data_dir"`
	KeyFile     string     `yaml:"key_file"`
	Database    Database   `yaml:"database"`
	Log         Log        `yaml:"log"`
	HTTP        HTTP       `yaml:"http"`
	API         API        `yaml:"api"`
	IRC         IRC        `yaml:"irc"`
	Matrix      []Matrix   `yaml:"matrix"`
	Federation  Federation `yaml:"federation"`
	ExpireAfter Duration   `yaml:"expire_after"`
	StopTimeout Duration   `yaml:"stop_timeout"`
}

// Database says where the log is kept.
type Database struct {
	URL     Secret `yaml:"url"`
	URLFile string `yaml:"url_file"`
}

// Log says what is logged, and how.
type Log struct {
	Level  string `yaml:"level"`
	Format string `yaml:"format"`
}

// HTTP is the one HTTP server: health, metrics, Matrix, WebSocket.
type HTTP struct {
	Address        string   `yaml:"address"`
	CertFile       string   `yaml:"cert_file"`
	KeyFile        string   `yaml:"key_file"`
	Metrics        bool     `yaml:"metrics"`
	HeaderTimeout  Duration `yaml:"header_timeout"`
	RequestTimeout Duration `yaml:"request_timeout"`
	IdleTimeout    Duration `yaml:"idle_timeout"`
	MaxConnections int      `yaml:"max_connections"`
}

// API is what devices use, at the address of HTTP.
type API struct {
	Enabled               bool     `yaml:"enabled"`
	Registration          string   `yaml:"registration"`
	RegistrationToken     Secret   `yaml:"registration_token"`
	RegistrationTokenFile string   `yaml:"registration_token_file"`
	Forwarded             []string `yaml:"forwarded"` // CIDRs
	SessionLifetime       Duration `yaml:"session_lifetime"`
	RequestsPerSecond     int      `yaml:"requests_per_second"`
	MessagesPerSecond     int      `yaml:"messages_per_second"`
	Streams               int      `yaml:"streams"`
}

// IRC is the IRC listener.
type IRC struct {
	Listeners       []Listener `yaml:"listeners"`
	WebSocket       bool       `yaml:"websocket"`
	Origins         []string   `yaml:"origins"`
	Forwarded       []string   `yaml:"forwarded"` // CIDRs
	WebIRC          []WebIRC   `yaml:"webirc"`
	ServerName      string     `yaml:"server_name"`
	MOTD            string     `yaml:"motd"`
	MOTDFile        string     `yaml:"motd_file"`
	Admin           string     `yaml:"admin"`
	STS             Duration   `yaml:"sts"`
	CloakSecretFile string     `yaml:"cloak_secret_file"`
	Icon            string     `yaml:"icon"`
	CaseMapping     string     `yaml:"case_mapping"`
	RemoteSuffix    string     `yaml:"remote_suffix"`
	Guests          bool       `yaml:"guests"`
	CreateChannels  bool       `yaml:"create_channels"`
	ReserveNicks    bool       `yaml:"reserve_nicks"`
	JoinHistory     int        `yaml:"join_history"`
	Accounts        Accounts   `yaml:"accounts"`
	Limits          Limits     `yaml:"limits"`
}

// A Listener is one address where IRC clients connect.
type Listener struct {
	Name      string   `yaml:"name"`
	Address   string   `yaml:"address"`
	TLS       bool     `yaml:"tls"`
	CertFile  string   `yaml:"cert_file"`
	KeyFile   string   `yaml:"key_file"`
	WebSocket bool     `yaml:"websocket"`
	Origins   []string `yaml:"origins"`
	Proxy     []string `yaml:"proxy"` // CIDRs
}

// Accounts says who may have an account, and how passwords are kept.
type Accounts struct {
	Registration bool `yaml:"registration"`
	MinPassword  int  `yaml:"min_password"`
	Argon2Memory Size `yaml:"argon2_memory"`
	Argon2Passes int  `yaml:"argon2_passes"`
	Hashers      int  `yaml:"hashers"`
}

// Limits bounds what IRC clients may ask of the server.
type Limits struct {
	Connections         int      `yaml:"connections"`
	PerAddress          int      `yaml:"per_address"`
	ConnectBurst        int      `yaml:"connect_burst"`
	ConnectInterval     Duration `yaml:"connect_interval"`
	Exempt              []string `yaml:"exempt"` // CIDRs
	RegistrationTimeout Duration `yaml:"registration_timeout"`
	PingInterval        Duration `yaml:"ping_interval"`
	PingTimeout         Duration `yaml:"ping_timeout"`
	CommandBurst        int      `yaml:"command_burst"`
	CommandInterval     Duration `yaml:"command_interval"`
	SendQueue           Size     `yaml:"send_queue"`
	RecvQueue           Size     `yaml:"recv_queue"`
	Channels            int      `yaml:"channels"`
	NickLength          int      `yaml:"nick_length"`
	ChannelLength       int      `yaml:"channel_length"`
	TopicLength         int      `yaml:"topic_length"`
	KickLength          int      `yaml:"kick_length"`
	AwayLength          int      `yaml:"away_length"`
	RealLength          int      `yaml:"real_length"`
	Targets             int      `yaml:"targets"`
	Monitor             int      `yaml:"monitor"`
	History             int      `yaml:"history"`
	MultilineBytes      Size     `yaml:"multiline_bytes"`
	MultilineLines      int      `yaml:"multiline_lines"`
}

// Matrix is one Matrix homeserver that we are an application service of.
type Matrix struct {
	Name           string   `yaml:"name"`
	Server         string   `yaml:"server"`
	URL            string   `yaml:"url"`
	ListenURL      string   `yaml:"listen_url"`
	ASToken        Secret   `yaml:"as_token"`
	ASTokenFile    string   `yaml:"as_token_file"`
	HSToken        Secret   `yaml:"hs_token"`
	HSTokenFile    string   `yaml:"hs_token_file"`
	ID             string   `yaml:"id"`
	Bot            string   `yaml:"bot"`
	GhostPrefix    string   `yaml:"ghost_prefix"`
	AliasPrefix    string   `yaml:"alias_prefix"`
	CreateRooms    bool     `yaml:"create_rooms"`
	MaxBody        Size     `yaml:"max_body"`
	MaxEvents      int      `yaml:"max_events"`
	JoinsPerSecond int      `yaml:"joins_per_second"`
	RequestTimeout Duration `yaml:"request_timeout"`
}

// Federation says how this homeserver meets others.
type Federation struct {
	Address  string           `yaml:"address"`
	CertFile string           `yaml:"cert_file"`
	KeyFile  string           `yaml:"key_file"`
	CAFile   string           `yaml:"ca_file"`
	Base     string           `yaml:"base"`
	Peers    []Peer           `yaml:"peers"`
	Block    []string         `yaml:"block"` // domains and *.suffix
	Limits   FederationLimits `yaml:"limits"`
}

// A Peer is a homeserver whose address is not asked for.
type Peer struct {
	Name    string `yaml:"name"` // its domain
	Address string `yaml:"address"`
}

// FederationLimits bound what other homeservers may cost.
type FederationLimits struct {
	Requests int  `yaml:"requests_per_second"`
	Parallel int  `yaml:"parallel"`
	InFlight int  `yaml:"in_flight"`
	Memory   Size `yaml:"memory"`
}

// A WebIRC is a web client's server that says who is behind its connections.
type WebIRC struct {
	Name         string   `yaml:"name"`
	From         []string `yaml:"from"` // CIDRs
	Password     Secret   `yaml:"password"`
	PasswordFile string   `yaml:"password_file"`
}

// Path returns where name lies: as it is when absolute, else below data_dir; ""
// stays "".
func (c *Config) Path(name string) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(c.DataDir, name)
}

// fill puts the defaults of list entries, which default.yaml shows in comments.
func (c *Config) fill() {
	for i := range c.Matrix {
		m := &c.Matrix[i]
		setDefault(&m.ID, "isthmus")
		setDefault(&m.Bot, "isthmus")
		setDefault(&m.GhostPrefix, "isthmus_")
		setDefault(&m.AliasPrefix, m.GhostPrefix)
		setDefault(&m.MaxBody, 16<<20)
		setDefault(&m.MaxEvents, 1000)
		setDefault(&m.JoinsPerSecond, 10)
		setDefault(&m.RequestTimeout, Duration(30*second))
		if m.ASToken == "" {
			setDefault(&m.ASTokenFile, "matrix-"+m.Name+".as_token")
		}
		if m.HSToken == "" {
			setDefault(&m.HSTokenFile, "matrix-"+m.Name+".hs_token")
		}
	}
	setDefault(&c.IRC.ServerName, c.Domain)
}

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}
