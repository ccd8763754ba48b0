package orchestrator

import (
	"bytes"
	"context"
	"io"
	"os"

	"github.com/btw-img/btw-img/orchestrator/disk"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// Files of a tree belong to ids that an ordinary user has in a jail alone: only there can
// they be read, changed and removed.

// Verbs runs a verb of vmctl, with its arguments, and returns its exit code.
type Verbs func(ctx context.Context, arguments []string, stdout, stderr io.Writer) int

// verb is what a jail is to run.
type verb struct {
	Arguments []string `json:"arguments"`
}

// printed is what a verb has printed.
type printed struct{ Stdout, Stderr []byte }

func (v *verb) run(ctx context.Context, verbs Verbs) ending {
	var stdout, stderr bytes.Buffer
	code := verbs(ctx, v.Arguments, &stdout, &stderr)
	return ending{Code: code, Printed: &printed{stdout.Bytes(), stderr.Bytes()}}
}

// FilesNeedJail says whether this user's layers hold files that only a jail can change.
func FilesNeedJail() bool { return os.Geteuid() != 0 }

// RunVerbInJail runs a verb in a jail, as jailVerb tells this binary to make one, and
// returns its exit code. The jail has neither this process's environment nor its folder.
func RunVerbInJail(ctx context.Context, jailVerb string, arguments []string, stdout, stderr io.Writer) (code int, err error) {
	o := host.JailOptions{Args: []string{jailVerb}, Offline: true, Request: request{Verb: &verb{arguments}}, Log: io.Discard}
	result, err := converse(ctx, o, nil)
	if err != nil || result.Printed == nil {
		return result.Code, err
	}
	if _, err := stderr.Write(result.Printed.Stderr); err != nil {
		return result.Code, err
	}
	_, err = stdout.Write(result.Printed.Stdout)
	return result.Code, err
}

// eraser removes folders, also those in which a jail has left files.
type eraser struct{ jailVerb string }

func (e eraser) erase(folder string) error {
	err := os.RemoveAll(folder)
	if err == nil || !FilesNeedJail() {
		return err
	}
	o := host.JailOptions{Args: []string{e.jailVerb}, Offline: true, Request: request{Erase: folder}, Log: io.Discard}
	_, err = converse(context.Background(), o, nil)
	return err
}

// nobody stands for who does errands, where the user is not root.
type nobody struct {
	errands // for room: that takes no power
	host    host.Host
	at      string // folder for files in passing
}

// Fill implements disk.Filler.
func (nobody) Fill(_ context.Context, part disk.Partition, _, _ string) error {
	return fail.New(fail.Host, part.String(), "use sudo, or choose another file system", "only root can fill a file system of %s", part.Filesystem)
}

// Compare implements outside, as far as that takes no mounting.
func (n nobody) Compare(ctx context.Context, plan disk.Plan, file, root string) error {
	if err := os.MkdirAll(n.at, 0o700); err != nil {
		return err
	}
	return disk.CompareUnmounted(ctx, n.host, plan, file, root, n.at)
}

// Read implements outside.
func (nobody) Read(_ context.Context, v disk.Volume, _, _ string) error {
	return fail.New(fail.Host, "", "use sudo, or an image whose root file system is ext4", "only root can read a file system of %s", v.Filesystem)
}
