// Package client is the device's half of Isthmus: it holds the keys, makes and
// follows Groups, checks what homeservers say before it acts on it, and survives a
// crash at any moment (PROTOCOL §2, §5 to §10; docs/MLS.md).
//
// It is pure: no goroutine, clock or socket. Time, randomness, waiting, storage
// and the homeserver come from the Config. Methods of a Client may be called by
// several goroutines; none of them waits for another's request to the network.
package client
