package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/term"

	"github.com/btw-img/btw-img/orchestrator/fail"
)

// terminalChanged is held while the terminal is set to hide what is typed. Who
// ends the process waits for it, so that the terminal is left as it was.
var terminalChanged sync.Mutex

// askCredential asks at the terminal for a user, where none is given, and for a
// password, which is not shown. The keys that interrupt come here as characters
// meanwhile; signals end the context.
func askCredential(ctx context.Context, stderr io.Writer, host, user string) (_, password string, err error) {
	terminalChanged.Lock()
	defer terminalChanged.Unlock()
	fd := int(os.Stdin.Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return "", "", err
	}
	defer func() { err = errors.Join(err, term.Restore(fd, before)) }()
	terminal := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{os.Stdin, stderr}, fmt.Sprintf("Username for %s: ", host))
	ended := make(chan error, 1)
	go func() {
		var err error
		if user == "" {
			user, err = terminal.ReadLine()
		}
		if err == nil {
			password, err = terminal.ReadPassword(fmt.Sprintf("Password for %s as %s: ", host, user))
		}
		ended <- err
	}()
	select {
	case <-ctx.Done():
		fmt.Fprint(stderr, "\r\n")
		return "", "", ctx.Err()
	case err := <-ended:
		if errors.Is(err, io.EOF) { // Ctrl-C, or Ctrl-D
			fmt.Fprint(stderr, "\r\n")
			return "", "", fail.New(fail.Interrupted, "", "", "interrupted")
		}
		return user, password, err
	}
}
