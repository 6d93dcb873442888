//go:build bench

package main

import (
	"net/http"

	"github.com/isthmus-chat/isthmus/core/client"
)

// BenchHome is the homeserver at base as `isthmus chat` reaches it, over c, which
// many devices may share.
func BenchHome(base string, c *http.Client) client.Home { return &httpHome{base: base, http: c} }
