// Package wire is what devices and homeservers say to their homeserver and to
// each other, as values: the bodies of the device API (PROTOCOL §9) and of the
// requests between homeservers (PROTOCOL §8). JSON and CBOR (RFC 8949) use the
// same names; octets are base64 (RFC 4648 §4) in JSON. docs/openapi.yaml says the same
// to those who do not read Go.
package wire
