package store

import "github.com/fxamacker/cbor/v2"

var headerMode, _ = cbor.CoreDetEncOptions().EncMode()
