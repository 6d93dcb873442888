package configs

import (
	"reflect"
	"strings"
)

// A Change is one key whose value differs between two configurations.
type Change struct {
	Key string
	Hot bool // may be applied to a running server; otherwise it needs a restart
}

// hot are the keys, and sections of keys, that a running server applies.
// default.yaml marks them.
var hot = []string{"log.level", "irc.motd", "irc.motd_file", "irc.admin"}

// Diff lists the keys that differ, in the order of default.yaml. Lists are
// compared whole. Certificates are files: they are read again at every reload
// and are not listed.
func Diff(old, now *Config) []Change {
	var out []Change
	walk("", reflect.ValueOf(*old), reflect.ValueOf(*now), func(key string, a, b reflect.Value) {
		if !reflect.DeepEqual(a.Interface(), b.Interface()) {
			out = append(out, Change{Key: key, Hot: isHot(key)})
		}
	})
	return out
}

// Keep returns now with every key that cannot be applied hot as it is in old:
// the configuration a running server has after a reload.
func Keep(old, now *Config) *Config {
	kept := *now
	walk("", reflect.ValueOf(*old), reflect.ValueOf(&kept).Elem(), func(key string, a, b reflect.Value) {
		if !isHot(key) {
			b.Set(a)
		}
	})
	return &kept
}

func isHot(key string) bool {
	for _, h := range hot {
		if key == h || strings.HasPrefix(key, h+".") {
			return true
		}
	}
	return false
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
