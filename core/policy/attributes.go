package policy

import "github.com/isthmus-chat/isthmus/mls"

// Optionality says whether something is left to clients, demanded or forbidden,
// draft-ietf-mimi-room-policy-04 §6.1.
type Optionality uint8

// The values of Optionality. The draft also calls Required mandatory.
const (
	Optional  Optionality = 0
	Required  Optionality = 1
	Forbidden Optionality = 2
)

func (r *reader) optionality() Optionality { return Optionality(r.choice(2)) }

// StatusNotification is the data and the update of the component
// status_notification_policy, draft-ietf-mimi-room-policy-04 §6.1.
type StatusNotification struct{ Delivery, Read Optionality }

// ParseStatusNotification reads it. Errors are ErrMalformed.
func ParseStatusNotification(b []byte) (StatusNotification, error) {
	return parse(b, func(r *reader) StatusNotification { return StatusNotification{r.optionality(), r.optionality()} })
}

// AppendTo appends the encoding.
func (p StatusNotification) AppendTo(dst []byte) []byte {
	return append(dst, byte(p.Delivery), byte(p.Read))
}

// LinkPreview is the data and the update of the component link_preview_policy,
// draft-ietf-mimi-room-policy-04 §6.3. Proxies are URIs; there are none if
// their use is Forbidden and at least one else.
type LinkPreview struct {
	Autodetect, Send, Automatic, ProxyUse Optionality
	Proxies                               []string
}

// ParseLinkPreview reads it. Errors are ErrMalformed.
func ParseLinkPreview(b []byte) (LinkPreview, error) {
	return parse(b, func(r *reader) LinkPreview {
		p := LinkPreview{r.optionality(), r.optionality(), r.optionality(), r.optionality(), nil}
		if p.Autodetect == Required {
			r.fail("autodetection of links is never mandatory")
		}
		if p.ProxyUse != Forbidden {
			if p.Proxies = readURIs(r); len(p.Proxies) == 0 {
				r.fail("a proxy may be used, and there is none")
			}
		}
		return p
	})
}

// AppendTo appends the encoding.
func (p LinkPreview) AppendTo(dst []byte) []byte {
	dst = append(dst, byte(p.Autodetect), byte(p.Send), byte(p.Automatic), byte(p.ProxyUse))
	if p.ProxyUse == Forbidden {
		return dst
	}
	return appendURIs(dst, p.Proxies)
}

// UploadDomains says where clients of a provider upload.
type UploadDomains struct {
	Provider     string
	Destinations []string
}

// Asset is the data and the update of the component asset_policy,
// draft-ietf-mimi-room-policy-04 §6.4. Location is 0 (unspecified), 1 (local
// provider) or 2 (hub); the ways of download are 0 (direct), 1 (by the hub) and
// 2 (oblivious HTTP); sizes are in octets. The draft's last field reads as an
// optional list: PermittedTypes is nil if there is none.
type Asset struct {
	Location                                  uint8
	Domains                                   []UploadDomains
	AllowedDownload, ForbiddenDownload        []uint8
	DefaultDownload                           uint8
	MaxImage, MaxAudio, MaxVideo, MaxAttached uint64
	ForbiddenTypes                            []mls.MediaType
	PermittedTypes                            *[]mls.MediaType
}

func readDownload(r *reader) uint8 { return r.choice(2) }

// appendU8 has the form that lists want.
func appendU8(dst []byte, v uint8) []byte { return append(dst, v) }

func readMediaTypes(r *reader) []mls.MediaType {
	return readList(r, MaxEntries, func(r *reader) mls.MediaType {
		return mls.MediaType{Type: []byte(r.text(MaxText)), Parameters: readList(r, MaxEntries, func(r *reader) mls.Parameter {
			return mls.Parameter{Name: []byte(r.text(MaxText)), Value: []byte(r.opaque())}
		})}
	})
}

func appendMediaTypes(dst []byte, list []mls.MediaType) []byte {
	return appendList(dst, list, func(dst []byte, m mls.MediaType) []byte { return m.AppendTo(dst) })
}

// ParseAsset reads it. Errors are ErrMalformed.
func ParseAsset(b []byte) (Asset, error) {
	return parse(b, func(r *reader) Asset {
		return Asset{
			Location: r.choice(2),
			Domains: readList(r, MaxEntries, func(r *reader) UploadDomains {
				return UploadDomains{r.uri(), readURIs(r)}
			}),
			AllowedDownload:   readList(r, MaxEntries, readDownload),
			ForbiddenDownload: readList(r, MaxEntries, readDownload),
			DefaultDownload:   readDownload(r),
			MaxImage:          r.u64(), MaxAudio: r.u64(), MaxVideo: r.u64(), MaxAttached: r.u64(),
			ForbiddenTypes: readMediaTypes(r),
			PermittedTypes: readOptional(r, readMediaTypes),
		}
	})
}

// AppendTo appends the encoding.
func (p Asset) AppendTo(dst []byte) []byte {
	dst = appendList(append(dst, p.Location), p.Domains, func(dst []byte, d UploadDomains) []byte {
		return appendURIs(appendVec(dst, d.Provider), d.Destinations)
	})
	dst = appendList(dst, p.AllowedDownload, appendU8)
	dst = append(appendList(dst, p.ForbiddenDownload, appendU8), p.DefaultDownload)
	for _, n := range []uint64{p.MaxImage, p.MaxAudio, p.MaxVideo, p.MaxAttached} {
		dst = appendU64(dst, n)
	}
	return appendOptional(appendMediaTypes(dst, p.ForbiddenTypes), p.PermittedTypes, appendMediaTypes)
}

// Logging is the data and the update of the component logging_policy,
// draft-ietf-mimi-room-policy-04 §6.5. All but Logging is empty if that is
// Forbidden.
type Logging struct {
	Logging                        Optionality
	Clients                        []string // URIs
	MachineReadable, HumanReadable string   // URIs of policies
}

// ParseLogging reads it. Errors are ErrMalformed.
func ParseLogging(b []byte) (Logging, error) {
	return parse(b, func(r *reader) Logging {
		p := Logging{Logging: r.optionality()}
		if p.Logging != Forbidden {
			p.Clients, p.MachineReadable, p.HumanReadable = readURIs(r), r.uri(), r.uri()
		}
		if p.Logging == Required && len(p.Clients) == 0 {
			r.fail("logging is required, and nobody does it")
		}
		return p
	})
}

// AppendTo appends the encoding.
func (p Logging) AppendTo(dst []byte) []byte {
	if dst = append(dst, byte(p.Logging)); p.Logging == Forbidden {
		return dst
	}
	return appendVec(appendVec(appendURIs(dst, p.Clients), p.MachineReadable), p.HumanReadable)
}

// History is the data and the update of the component chat_history_policy,
// draft-ietf-mimi-room-policy-04 §6.6. MaxTime is in seconds.
type History struct {
	Sharing       Optionality
	Roles         []uint32 // who may share; not role 0 or 1
	Automatically bool
	MaxTime       uint32
}

// ParseHistory reads it. Errors are ErrMalformed.
func ParseHistory(b []byte) (History, error) {
	return parse(b, func(r *reader) History {
		p := History{Sharing: r.optionality()}
		if p.Sharing != Forbidden {
			p.Roles, p.Automatically, p.MaxTime = readList(r, MaxRoles, (*reader).u32), r.bool(), r.u32()
		}
		for _, i := range p.Roles {
			if i <= RoleBanned {
				r.fail("who is not there, or banned, shares no history")
			}
		}
		return p
	})
}

// AppendTo appends the encoding.
func (p History) AppendTo(dst []byte) []byte {
	if dst = append(dst, byte(p.Sharing)); p.Sharing == Forbidden {
		return dst
	}
	return appendU32(appendBool(appendList(dst, p.Roles, appendU32), p.Automatically), p.MaxTime)
}

// A Bot is one that the room allows, draft-ietf-mimi-room-policy-04 §6.7.
type Bot struct {
	Name, Description, Homepage string
	Local                       bool // acts through somebody's client, with role 0
	Role                        uint32
	Targets                     bool // may address single members
	PerUser                     bool // may send different content to each
}

// Bots is the data and the update of the component bot_policy.
type Bots []Bot

// ParseBots reads it. Errors are ErrMalformed.
func ParseBots(b []byte) (Bots, error) {
	return parse(b, func(r *reader) Bots {
		return readList(r, MaxEntries, func(r *reader) Bot {
			b := Bot{r.text(MaxText), r.text(MaxText), r.uri(), r.bool(), r.u32(), r.bool(), r.bool()}
			if b.Local && b.Role != RoleNone {
				r.fail("a local bot has no role of its own")
			}
			return b
		})
	})
}

// AppendTo appends the encoding.
func (p Bots) AppendTo(dst []byte) []byte {
	return appendList(dst, p, func(dst []byte, b Bot) []byte {
		dst = appendVec(appendVec(appendVec(dst, b.Name), b.Description), b.Homepage)
		dst = appendU32(appendBool(dst, b.Local), b.Role)
		return appendBool(appendBool(dst, b.Targets), b.PerUser)
	})
}

// Expiration is the data and the update of the component
// message_expiration_policy, draft-ietf-mimi-room-policy-04 §6.8, in seconds.
type Expiration struct {
	Expiring     Optionality
	Least, Most  uint32
	DefaultValue *uint32
}

// ParseExpiration reads it. Errors are ErrMalformed.
func ParseExpiration(b []byte) (Expiration, error) {
	return parse(b, func(r *reader) Expiration {
		p := Expiration{Expiring: r.optionality()}
		if p.Expiring != Forbidden {
			p.Least, p.Most, p.DefaultValue = r.u32(), r.u32(), readOptional(r, (*reader).u32)
		}
		if p.Least > p.Most {
			r.fail("the shortest time is longer than the longest")
		}
		return p
	})
}

// AppendTo appends the encoding.
func (p Expiration) AppendTo(dst []byte) []byte {
	if dst = append(dst, byte(p.Expiring)); p.Expiring == Forbidden {
		return dst
	}
	return appendOptional(appendU32(appendU32(dst, p.Least), p.Most), p.DefaultValue, appendU32)
}
