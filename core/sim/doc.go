// Package sim runs homeservers and devices in one thread, on one clock that it
// moves itself, from one seed: the same seed is the same run, message for message.
//
// A homeserver is the real engine in the real agreement (core.Engine in
// epoch.Machine) on a store in memory; a device is the real client on a KV in
// memory. What stands between them is a desk, which maps what devices and other
// homeservers ask to inputs as package native does over HTTP, a network that loses,
// delays, doubles and reorders, and disks that fail a commit before or after it took
// effect. Processes crash at any step and continue from what was stored.
//
// While it runs and after it has come to rest, the run is held to what a room
// promises: see check.go.
package sim
