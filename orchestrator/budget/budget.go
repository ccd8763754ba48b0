// Package budget shares what a machine has among builds that run at the same time, in one
// process or in several that share a store: processors and memory for guests, and room
// for disks. Who does not get a share waits until others give theirs back; who is alone
// gets all there is. What a share is for, and how large, is its taker's to know.
package budget

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/host"
)

// Budget is a folder with a file for each share that is taken. Its taker has a lock on it
// (flock(2)), which ends with the process at the latest.
type Budget struct{ folder string }

// In is the budget in a folder, which is there and which nobody else can write.
func In(folder string) *Budget { return &Budget{folder} }

// FolderName is what the folder of the budget is called in a store.
const FolderName = "budget"

const (
	lockName = "lock"
	patience = 200 * time.Millisecond // between looks whether others have given back
)

// share is what somebody has taken.
type share struct {
	Guests    int    `json:"guests,omitempty"`
	Memory    int64  `json:"memory,omitempty"`    // bytes, of the guests
	Available int64  `json:"available,omitempty"` // bytes of memory that there were before anybody had a guest
	Device    uint64 `json:"device,omitempty"`    // of the file system that Room is on
	Room      int64  `json:"room,omitempty"`      // bytes
	Folder    string `json:"folder,omitempty"`    // what lies in it is taken from Room
}

// Guest waits until a guest of so many bytes of memory may run, besides less than most
// others. waits is told once where that takes time.
func (b *Budget) Guest(ctx context.Context, memory int64, most int, waits func()) (release func(), err error) {
	return b.take(ctx, waits, func(others []share) (share, bool, error) {
		own, fits := guest(others, memory, most, host.AvailableMemory())
		return own, fits, nil
	})
}

// guest is the share of a guest, and whether it can be had besides the others. The memory
// of those that run may not be theirs yet, so what there is counts from before them.
func guest(others []share, memory int64, most int, available int64) (own share, fits bool) {
	own = share{Guests: 1, Memory: memory, Available: available}
	guests, taken := 0, int64(0)
	for _, other := range others {
		guests, taken, own.Available = guests+other.Guests, taken+other.Memory, max(own.Available, other.Available)
	}
	return own, guests == 0 || guests < most && taken+memory <= own.Available && memory <= available
}

// Held is the bytes of memory that guests have now, which others may wait for.
func (b *Budget) Held(ctx context.Context) (bytes int64) {
	lock, err := b.lock(ctx)
	if err != nil {
		return 0
	}
	defer lock.Close()
	others, _ := b.others()
	for _, other := range others {
		bytes += other.Memory
	}
	return bytes
}

// Room waits until a folder can get so many bytes of files besides what others are about to
// write to its file system. Where there are no others, it is an error of kind Host that
// less than the least is free.
func (b *Budget) Room(ctx context.Context, folder string, least, most int64, waits func()) (release func(), err error) {
	return b.take(ctx, waits, func(others []share) (share, bool, error) {
		var stat unix.Stat_t
		if err := unix.Stat(folder, &stat); err != nil {
			return share{}, false, &fs.PathError{Op: "stat", Path: folder, Err: err}
		}
		free, err := host.FreeSpace(folder)
		if err != nil {
			return share{}, false, err
		}
		own := share{Device: stat.Dev, Room: most, Folder: folder}
		fits, err := own.room(others, least, free, usage)
		return own, fits, err
	})
}

// room says whether a share can be had besides the others where so much is free.
func (s share) room(others []share, least, free int64, usage func(folder string) int64) (fits bool, err error) {
	alone, still := true, int64(0) // what others have not written yet
	for _, other := range others {
		if other.Room > 0 && other.Device == s.Device {
			alone, still = false, still+max(0, other.Room-usage(other.Folder))
		}
	}
	switch {
	case s.Room <= free-still:
		return true, nil
	case alone && least > free:
		const mib = 1 << 20
		folder := filepath.Dir(s.Folder)
		return false, fail.New(fail.Host, "", "free space in "+folder+", or choose another folder with -o", "the disk takes about %d MiB, and %d MiB are free in %s", least/mib+1, free/mib, folder)
	}
	return alone, nil
}

// usage is the bytes that the files in a folder take on their file system.
func usage(folder string) (bytes int64) {
	_ = filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
		var stat unix.Stat_t
		if err == nil && unix.Lstat(path, &stat) == nil {
			bytes += stat.Blocks * 512
		}
		return nil // what goes away meanwhile takes nothing
	})
	return bytes
}

// take waits until the share that decide wants besides those of others fits.
func (b *Budget) take(ctx context.Context, waits func(), decide func(others []share) (own share, fits bool, err error)) (release func(), err error) {
	for {
		release, err := b.try(ctx, decide)
		if release != nil || err != nil {
			return release, explain(err)
		}
		if waits != nil {
			waits()
			waits = nil
		}
		if err := pause(ctx); err != nil {
			return nil, err
		}
	}
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(patience):
		return nil
	}
}

// explain makes an error that of the host, unless it is told better already.
func explain(err error) error {
	if _, told := errors.AsType[*fail.Error](err); told || err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return &fail.Error{Kind: fail.Host, Op: "take a share of this machine", Err: err, Hint: "see that the store can be written and has space, or choose another with --cache"}
}

// try takes the share if it fits now.
func (b *Budget) try(ctx context.Context, decide func(others []share) (own share, fits bool, err error)) (release func(), err error) {
	lock, err := b.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	others, err := b.others()
	if err != nil {
		return nil, err
	}
	own, fits, err := decide(others)
	if err != nil || !fits {
		return nil, err
	}
	return b.write(own)
}

// lock keeps others from deciding at the same time.
func (b *Budget) lock(ctx context.Context) (*os.File, error) {
	for {
		file, err := open(filepath.Join(b.folder, lockName), os.O_CREATE)
		if err != nil {
			return nil, err
		}
		if err = flock(file); err == nil {
			return file, nil
		}
		file.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, err
		}
		if err := pause(ctx); err != nil {
			return nil, err
		}
	}
}

// others is the shares that are taken. Those whose takers are gone are removed.
func (b *Budget) others() ([]share, error) {
	entries, err := os.ReadDir(b.folder)
	if err != nil {
		return nil, err
	}
	var others []share
	for _, entry := range entries {
		if entry.Name() == lockName {
			continue
		}
		path := filepath.Join(b.folder, entry.Name())
		file, err := open(path, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was given back meanwhile
		}
		if err != nil {
			return nil, err
		}
		var other share
		if flock(file) == nil {
			os.Remove(path)
		} else if json.NewDecoder(file).Decode(&other) == nil {
			others = append(others, other)
		}
		file.Close()
	}
	return others, nil
}

// write makes the file of a share, which its release removes.
func (b *Budget) write(own share) (release func(), err error) {
	path := filepath.Join(b.folder, rand.Text())
	file, err := open(path, os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, err
	}
	release = func() {
		os.Remove(path)
		file.Close()
	}
	if err = flock(file); err == nil {
		err = json.NewEncoder(file).Encode(own)
	}
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

func open(path string, flags int) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|flags, 0o600)
}

// flock takes the lock of a file until it is closed, unless somebody else has it.
func flock(file *os.File) error {
	for {
		if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
