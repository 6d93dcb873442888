// Command isthmus is the gateway: one binary for its operators.
//
// serve runs a homeserver with its bridges; every other command asks a running
// server over its control socket, or opens the store itself when none runs.
package main

import "os"

func main() { os.Exit(run(os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr)) }
