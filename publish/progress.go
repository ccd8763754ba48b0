package publish

import (
	"io"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// copyBuffer is how much of a disk is read at a time, in bytes.
const copyBuffer = 1 << 20

// Event tells of a transfer, or of something worth a line.
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

// transfers counts the bytes of the blobs that one push or pull moves.
type transfers struct {
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

func newTransfers(tell Tell) *transfers {
	if tell == nil {
		tell = func(Event) {}
	}
	return &transfers{tell: tell, running: map[digest.Digest]*transfer{}}
}

func (t *transfers) note(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tell(Event{Note: text})
}

// start begins a transfer, or begins one again, of which done bytes are there.
func (t *transfers) start(d ocispec.Descriptor, done int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running[d.Digest] = &transfer{Event: Event{Item: itemOf(d), Done: done, Total: d.Size}}
}

func (t *transfers) add(d ocispec.Descriptor, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	one := t.running[d.Digest]
	if one == nil {
		return
	}
	one.Done += int64(n)
	if d.Size >= copyBuffer && time.Since(one.told) >= tellPeriod {
		one.told = time.Now()
		t.tell(one.Event)
	}
}

// end says that the blob is there; skipped, that it was so before.
func (t *transfers) end(d ocispec.Descriptor, skipped bool) {
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
	if d.Size >= copyBuffer {
		t.tell(event)
	}
}

// moved says whether something came through since it was last asked.
func (t *transfers) moved() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	moved := t.progress
	t.progress = false
	return moved
}

func (t *transfers) total() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.finished
}

// metered is a blob that is being sent.
type metered struct {
	io.ReadCloser
	transfers *transfers
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
