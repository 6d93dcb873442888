package configs

import (
	"reflect"
	"slices"
)

// A Change is one key whose value differs between two configurations.
type Change struct {
	Key string
	Hot bool // may be applied to a running server; otherwise it needs a restart
}

// hot are the keys that a running server applies; default.yaml marks them. What
// clients are told when they connect is not among them.
var hot = []string{
	"log.level", "irc.motd", "irc.motd_file", "irc.admin", "irc.create_channels", "irc.accounts.registration",
	"irc.limits.connections", "irc.limits.per_address", "irc.limits.connect_burst", "irc.limits.connect_interval", "irc.limits.exempt",
	"irc.limits.registration_timeout", "irc.limits.ping_interval", "irc.limits.ping_timeout",
	"irc.limits.command_burst", "irc.limits.command_interval", "irc.limits.send_queue", "irc.limits.recv_queue",
}

// Diff lists the keys that differ, in the order of default.yaml. Lists are
// compared whole. Certificates are files: they are read again at every reload
// and are not listed.
func Diff(old, now *Config) []Change {
	var out []Change
	walk("", reflect.ValueOf(*old), reflect.ValueOf(*now), func(key string, a, b reflect.Value) {
		if !reflect.DeepEqual(a.Interface(), b.Interface()) {
			out = append(out, Change{Key: key, Hot: slices.Contains(hot, key)})
		}
	})
	return out
}

// Keep returns now with every key that cannot be applied hot as it is in old:
// the configuration a running server has after a reload.
func Keep(old, now *Config) *Config {
	kept := *now
	walk("", reflect.ValueOf(*old), reflect.ValueOf(&kept).Elem(), func(key string, a, b reflect.Value) {
		if !slices.Contains(hot, key) {
			b.Set(a)
		}
	})
	return &kept
}

// walk calls f for every key of two values of one struct type.
func walk(prefix string, a, b reflect.Value, f func(key string, a, b reflect.Value)) {
	for i := range a.NumField() {
		key := prefix + a.Type().Field(i).Tag.Get("yaml")
		if a.Field(i).Kind() != reflect.Struct {
			f(key, a.Field(i), b.Field(i))
			continue
		}
		walk(key+".", a.Field(i), b.Field(i), f)
	}
}
