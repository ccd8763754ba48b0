// Package download gets files whose digests are known. What is interrupted goes on where it
// stopped, and a file has its name once all of it has its digest. It owns what every
// download has in common, and how files come over HTTP; where else content comes from, and
// where files are kept, is up to its callers.
package download

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/text"
)

// Opener opens content from an offset on. The validator is what came with the part that is
// there, "" for none.
type Opener func(ctx context.Context, from int64, validator string) (Content, error)

// Content is what an Opener gives.
type Content struct {
	io.ReadCloser
	From      int64  // where it begins: 0 where there is nothing but the whole
	Size      int64  // bytes of the whole; -1 for unknown
	Validator string // tells the whole from others at the same place; "" for none
}

// File is a file to download.
type File struct {
	Name   string // for people
	Open   Opener
	Digest string // sha256:HEX or sha512:HEX
	Size   int64  // bytes, where they are known; else 0
	Folder string // gets what is not whole yet
	Tell   func(done, total int64)
	Note   func(text string) // is told why it begins again
	// There says that somebody else has got it meanwhile.
	There func() bool
	// Keep gives the file, of which the SHA-256 is told, its place.
	Keep func(path, sha256 string) error
}

const (
	largest    = 1 << 40 // bytes
	attempts   = 5       // in all, without progress between them
	tellPeriod = 200 * time.Millisecond
)

// firstPause is before the first repetition.
var firstPause = time.Second

// Get downloads the file, and keeps it. Where its bytes do not have the digest nothing is
// kept, and the error is one of the build.
func (f File) Get(ctx context.Context) error {
	path := filepath.Join(f.Folder, strings.ReplaceAll(f.Digest, ":", "-")+".part")
	file, err := lock(ctx, path)
	if err != nil {
		return err
	}
	defer file.Close() // which unlocks it
	if f.There() {
		return remove(path)
	}
	g := getting{File: f, file: file, validator: path + ".from"}
	err = g.all(ctx)
	if errors.Is(err, errWrong) && g.resumed {
		f.Note("what was there before is of another file: again from the start")
		err = g.all(ctx)
	}
	if err == nil {
		err = f.Keep(path, hex.EncodeToString(g.sha256.Sum(nil)))
	}
	if err == nil || errors.Is(err, errWrong) || errors.Is(err, unix.ENOSPC) {
		err = errors.Join(err, remove(path))
	}
	return fail.Wrap(fail.Build, "download "+text.Line(f.Name), err)
}

func remove(path string) error {
	var problems []error
	for _, name := range []string{path, path + ".from"} {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// lock opens what is there of a file, which is nobody else's until it is closed.
func lock(ctx context.Context, path string) (*os.File, error) {
	for {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			mine, open := file.Stat()
			named, there := os.Lstat(path)
			if open == nil && there == nil && mine.Mode().IsRegular() && os.SameFile(mine, named) {
				return file, nil
			}
		}
		file.Close()
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, &os.PathError{Op: "lock", Path: path, Err: err}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// getting is a File that is being downloaded.
type getting struct {
	File
	file      *os.File
	validator string // file that holds the validator of what is there
	done      int64  // bytes that are there, and in the sums
	resumed   bool   // some of them are of another run
	sha256    hash.Hash
	sum       hash.Hash // of the digest's kind
	told      time.Time
}

var errWrong = errors.New("it has another digest")

// all downloads what is missing, and compares the whole.
func (g *getting) all(ctx context.Context) error {
	if err := g.begin(ctx, g.resumed); err != nil {
		return err
	}
	pause := firstPause
	for failures := 0; ; {
		before := g.done
		err := g.receive(ctx)
		if err == nil {
			break
		}
		if g.done > before {
			failures, pause = 0, firstPause
		}
		if failures++; ctx.Err() != nil || failures >= attempts || !temporary(err) {
			return hinted(errors.Join(ctx.Err(), err), g.done)
		}
		g.Note(fmt.Sprintf("%v; again in %s", err, pause))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause *= 2
	}
	g.Tell(g.done, g.done)
	kind, want, _ := strings.Cut(g.Digest, ":")
	if got := hex.EncodeToString(g.sum.Sum(nil)); got != want {
		return &fail.Error{
			Kind: fail.Build, Hint: "nothing of it was kept: see whether address and digest are those of the same file",
			Err: fmt.Errorf("%w: its %s is %s, and %s is wanted", errWrong, strings.ToUpper(kind), got, want),
		}
	}
	return nil
}

// hinted says that a download goes on, where it does.
func hinted(err error, done int64) error {
	if done == 0 || fail.Hint(err) != "" || errors.Is(err, errWrong) || errors.Is(err, unix.ENOSPC) {
		return err
	}
	return &fail.Error{Kind: fail.Build, Hint: fmt.Sprintf("try again: it goes on after the %.1f MB that are there", float64(done)/1e6), Err: err}
}

// begin takes what is there of the file into account, or throws it away.
func (g *getting) begin(ctx context.Context, afresh bool) error {
	g.done, g.resumed, g.sha256 = 0, false, sha256.New()
	g.sum = g.sha256
	if strings.HasPrefix(g.Digest, "sha512:") {
		g.sum = sha512.New()
	}
	if afresh {
		if err := errors.Join(os.WriteFile(g.validator, nil, 0o600), g.file.Truncate(0)); err != nil {
			return err
		}
	}
	if _, err := g.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	there, err := files.Copy(ctx, g.sums(), g.file)
	g.done, g.resumed = there, there > 0
	return err
}

func (g *getting) sums() io.Writer {
	if g.sum == g.sha256 {
		return g.sum
	}
	return io.MultiWriter(g.sum, g.sha256)
}

// receive downloads from where the file ends.
func (g *getting) receive(ctx context.Context) error {
	if g.Size > 0 && g.done == g.Size {
		return nil
	}
	known := ""
	if g.done > 0 {
		content, err := os.ReadFile(g.validator)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		known = string(content)
	}
	content, err := g.Open(ctx, g.done, known)
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }()
	switch {
	case content.From == 0 && g.done > 0:
		if err := g.begin(ctx, true); err != nil {
			return err
		}
	case content.From == g.done:
		g.resumed = g.resumed || g.done > 0
	default:
		return fmt.Errorf("it was asked for what follows byte %d, and sends what follows byte %d", g.done, content.From)
	}
	if content.Size > largest || g.Size > 0 && content.Size >= 0 && content.Size != g.Size {
		return &fail.Error{Kind: fail.Build, Err: fmt.Errorf("%w: it has %d bytes", errWrong, content.Size)}
	}
	if content.Validator != known {
		if err := os.WriteFile(g.validator, []byte(content.Validator), 0o600); err != nil {
			return err
		}
	}
	return g.copy(ctx, content)
}

func (g *getting) copy(ctx context.Context, content Content) error {
	out := io.MultiWriter(g.file, g.sums())
	buffer := make([]byte, files.CopyBuffer)
	most := int64(largest)
	if g.Size > 0 {
		most = g.Size
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := content.Read(buffer)
		if _, err := out.Write(buffer[:n]); err != nil {
			return err
		}
		if g.done += int64(n); g.done > most {
			return &fail.Error{Kind: fail.Build, Err: fmt.Errorf("%w: it has more than %d bytes", errWrong, most)}
		}
		if now := time.Now(); now.Sub(g.told) >= tellPeriod {
			g.told = now
			g.Tell(g.done, max(content.Size, g.Size))
		}
		switch {
		case errors.Is(err, io.EOF) && g.done < max(content.Size, g.Size):
			return io.ErrUnexpectedEOF
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}
