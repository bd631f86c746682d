// Pion as a peer of the tests: one command per protocol and role, each in the file of its protocol.
package main

import (
	"fmt"
	"os"
	"slices"
)

// A command runs a role until it is done; an error is what failed.
type command func(arguments []string) error

// Filled by the files of this program.
var commands = map[string]command{}

func main() {
	var names []string
	for name := range commands {
		names = append(names, name)
	}
	slices.Sort(names)
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintf(os.Stderr, "usage: pion COMMAND [OPTION...]; commands: %v\n", names)
		os.Exit(64)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "pion %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}
