// Package limit is how much is read of what others wrote: registries, archives and
// layouts may send without end, and a short document may take much memory. It reads
// nothing by itself.
package limit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// Bytes of what is read of an image beside its disk.
const (
	Manifest = 4 << 20  // of a manifest, an index or a config, as OCI distribution-spec 1.1 has it
	Metadata = 64 << 20 // of all that is held of one image
)

// Limits on a JSON document.
const (
	mostElements = 1000000 // it has bytes for each beyond fewElements, too
	fewElements  = 10000
	deepest      = 100 // nested objects and lists
)

var errTooMuch = errors.New("more than is sensible")

// AtMost is an error where there is more of something than its limit. what names the
// thing that is counted by n, for people.
func AtMost(what string, n, limit int64) error {
	if n <= limit {
		return nil
	}
	return fmt.Errorf("%s: %w: %d, and the limit is %d", what, errTooMuch, n, limit)
}

// Budget is how many bytes of an image's metadata may still be held: Metadata, less
// what was taken.
type Budget struct{ used int64 }

// Take takes bytes for something of that name, and is an error where there are none left.
func (b *Budget) Take(what string, bytes int64) error {
	b.used += bytes
	return AtMost("the bytes of what is attached, with "+what, b.used, Metadata)
}

// Decode reads a JSON document, unless it would take far more memory than bytes: a
// list of a million empty objects is short.
func Decode(content []byte, into any) error {
	elements, depth, deep := int64(0), int64(0), int64(0)
	quoted := false
	for i := 0; i < len(content); i++ {
		switch c := content[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == ',':
			elements++
		case c == '{' || c == '[':
			elements++
			depth++
			deep = max(deep, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	most := min(mostElements, fewElements+int64(len(content))/8)
	if err := errors.Join(AtMost("elements of JSON", elements, most), AtMost("nested elements of JSON", deep, deepest)); err != nil {
		return err
	}
	return json.Unmarshal(content, into)
}

// ReadFile reads a file that may be endless, of which limit bytes are sensible.
func ReadFile(fsys fs.FS, name string, limit int64) ([]byte, error) {
	file, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	content, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, err
	}
	return content, AtMost("bytes of "+name, int64(len(content)), limit)
}
