package registry

import (
	"io"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/btw-img/btw-img/orchestrator/files"
)

// Event tells of a transfer, or of something worth a line. Blobs below a MiB are not
// told of.
type Event struct {
	Item  string // file that is sent or received
	Done  int64  // bytes
	Total int64  // bytes
	Ended bool
	Note  string // where it is no transfer
}

// Tell hears events, one at a time. It may be nil.
type Tell func(Event)

const tellPeriod = 200 * time.Millisecond

// Transfers counts the bytes of the blobs that one push or pull moves.
type Transfers struct {
	mu       sync.Mutex
	tell     Tell
	running  map[digest.Digest]*transfer
	finished int64 // bytes of whole blobs
	progress bool  // since moved was last asked
}

type transfer struct {
	Event
	told time.Time
}

// NewTransfers begins to count. tell may be nil.
func NewTransfers(tell Tell) *Transfers {
	if tell == nil {
		tell = func(Event) {}
	}
	return &Transfers{tell: tell, running: map[digest.Digest]*transfer{}}
}

// Note tells something that is no transfer.
func (t *Transfers) Note(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tell(Event{Note: text})
}

// start begins a transfer, or begins one again, of which done bytes are there.
func (t *Transfers) start(d ocispec.Descriptor, done int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running[d.Digest] = &transfer{Event: Event{Item: itemOf(d), Done: done, Total: d.Size}}
}

func (t *Transfers) add(d ocispec.Descriptor, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	one := t.running[d.Digest]
	if one == nil {
		return
	}
	one.Done += int64(n)
	if d.Size >= files.CopyBuffer && time.Since(one.told) >= tellPeriod {
		one.told = time.Now()
		t.tell(one.Event)
	}
}

// End says that the blob is there; skipped, that it was so before.
func (t *Transfers) End(d ocispec.Descriptor, skipped bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.running, d.Digest)
	event := Event{Item: itemOf(d), Done: d.Size, Total: d.Size, Ended: true}
	if skipped {
		event.Note = "there already"
	} else {
		t.finished += d.Size
		t.progress = true
	}
	if d.Size >= files.CopyBuffer {
		t.tell(event)
	}
}

// Moved says whether something came through since it was last asked.
func (t *Transfers) Moved() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	moved := t.progress
	t.progress = false
	return moved
}

// Total is the bytes of the blobs that were moved whole.
func (t *Transfers) Total() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.finished
}

// Meter begins the transfer of a blob, or begins it again, and counts what is read of rc.
func (t *Transfers) Meter(d ocispec.Descriptor, rc io.ReadCloser) io.ReadCloser {
	t.start(d, 0)
	return metered{rc, t, d}
}

type metered struct {
	io.ReadCloser
	transfers *Transfers
	desc      ocispec.Descriptor
}

func (m metered) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	m.transfers.add(m.desc, n)
	return n, err
}

// itemOf names a blob for people.
func itemOf(d ocispec.Descriptor) string {
	if title := d.Annotations[ocispec.AnnotationTitle]; title != "" {
		return title
	}
	if d.MediaType == ocispec.MediaTypeImageLayer {
		return "container disk"
	}
	return d.Digest.Encoded()[:12]
}
