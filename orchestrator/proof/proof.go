// Package proof remembers which disks came up on which machines, so that a disk is not
// booted again where nothing could come of it but the same. What a boot must show is
// boottest's.
package proof

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btw-img/btw-img/orchestrator/boottest"
	"github.com/btw-img/btw-img/orchestrator/files"
	"github.com/btw-img/btw-img/orchestrator/host"
	"github.com/btw-img/btw-img/orchestrator/vm"
)

// Subject is what a boot is a proof of: its digest is the proof's name.
type Subject struct {
	// Rules counts what boottest has asked of a guest: a change that lets fewer guests pass
	// makes another number, so that all are booted again.
	Rules   int    `json:"rules"`
	Disk    string `json:"disk"` // SHA-256 of the raw disk
	Machine        // that it was booted on
}

const rules = 1

// FolderName is what the folder of proofs is called in a store.
const FolderName = "proofs"

// record is a proof as it is kept: one file, so that it is there whole or not at all.
type record struct {
	Subject Subject          `json:"subject"`
	Booted  time.Time        `json:"booted"`
	Result  boottest.Result  `json:"result"`
	Console []byte           `json:"console"`
	Screens boottest.Screens `json:"screens,omitempty"`
}

// Proofs is a folder of proofs, one file for each. Its methods may be called at the same
// time, by several processes too.
type Proofs struct{ folder string }

// In is the proofs in a folder, which is there and which nobody else can write.
func In(folder string) Proofs { return Proofs{folder} }

// mostBytes is the size of a proof that is read.
const mostBytes = 128 << 20

// disk is the proofs of one disk.
type disk struct {
	Proofs
	digest   string
	again    bool
	describe *describer
}

// Of is the proofs of the disk with that SHA-256. Where it is to be booted again, what is
// known of it is forgotten.
func (p Proofs) Of(h host.Host, digest string, again bool) boottest.Proofs {
	return disk{p, digest, again, &describer{host: h}}
}

// Find implements boottest.Proofs. What cannot be read is not known.
func (d disk) Find(ctx context.Context, m vm.Machine) (*boottest.Result, boottest.Traces) {
	subject, err := d.subject(ctx, m)
	if err != nil {
		return nil, boottest.Traces{}
	}
	if d.again {
		os.Remove(filepath.Join(d.folder, subject.name())) // it may not come up this time
		return nil, boottest.Traces{}
	}
	found, err := d.read(subject.name())
	if err != nil || !reflect.DeepEqual(found.Subject, subject) || found.Result.Firmware != m.Firmware || found.Result.CD != m.CD {
		return nil, boottest.Traces{}
	}
	now := time.Now()
	_ = os.Chtimes(filepath.Join(d.folder, subject.name()), now, now) // it is used: Collect goes by that
	found.Result.Earlier = &boottest.Earlier{Booted: found.Booted, QEMU: subject.QEMU, Files: subject.Files}
	return &found.Result, boottest.Traces{Console: found.Console, Screens: found.Screens}
}

// Keep implements boottest.Proofs.
func (d disk) Keep(ctx context.Context, m vm.Machine, r boottest.Result, left boottest.Traces) error {
	subject, err := d.subject(ctx, m)
	if err != nil {
		return err
	}
	content, err := json.Marshal(record{subject, time.Now().UTC().Truncate(time.Second), r, left.Console, left.Screens})
	if err != nil {
		return err
	}
	return d.write(subject.name(), content)
}

func (d disk) subject(ctx context.Context, m vm.Machine) (Subject, error) {
	machine, err := d.describe.machine(ctx, m)
	return Subject{rules, d.digest, machine}, err
}

// name is the digest of the subject.
func (s Subject) name() string {
	content, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("a subject cannot be written: %v", err)) // texts alone
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

func (p Proofs) read(name string) (found record, err error) {
	file, err := files.OpenRegular(filepath.Join(p.folder, name))
	if err != nil {
		return record{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return record{}, err
	}
	if info.Size() > mostBytes {
		return record{}, unix.EFBIG
	}
	err = json.NewDecoder(file).Decode(&found)
	return found, err
}

// unfinished begins the names of files that are still written.
const unfinished = "."

// write makes the file of a proof: whole or not at all, after a power failure too.
func (p Proofs) write(name string, content []byte) error {
	path := filepath.Join(p.folder, unfinished+rand.Text())
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(path, filepath.Join(p.folder, name))
	}
	if err != nil {
		os.Remove(path)
	}
	return err
}
