package publish

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// LargestManifest is the bytes of a manifest, an index or a config, as
// distribution-spec 1.1 has it.
const LargestManifest = 4 << 20

// Limits on what is read of an image beside its disk. Everything that a registry, an
// archive or a layout may send without end has one.
const (
	largestIndex    = 16 << 20 // bytes of a layout's index.json
	largestMetadata = 64 << 20 // bytes of all that is held of one image
	mostReferrers   = 1000     // of one manifest
	mostPages       = 100      // of a list
	mostManifests   = 1000     // in an index
	mostLayers      = 100      // of an attachment
	mostAnnotations = 1000     // of a manifest
	mostEntries     = 100000   // of an archive, or of a layout's index
	mostElements    = 1000000  // of a JSON document; it has bytes for each beyond fewElements, too
	fewElements     = 10000
	deepest         = 100 // nested objects and lists of a JSON document
)

var errTooMuch = errors.New("more than is sensible")

// atMost is an error where there is more of something than its limit.
func atMost(what string, n, limit int64) error {
	if n <= limit {
		return nil
	}
	return fmt.Errorf("%s: %w: %d, and the limit is %d", what, errTooMuch, n, limit)
}

// budget is how many bytes of an image's metadata may still be held.
type budget struct{ used int64 }

func (b *budget) take(what string, bytes int64) error {
	b.used += bytes
	return atMost("the bytes of what is attached, with "+what, b.used, largestMetadata)
}

// decode reads a JSON document, unless it would take far more memory than bytes: a
// list of a million empty objects is short.
func decode(content []byte, into any) error {
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
	limit := min(mostElements, fewElements+int64(len(content))/8)
	if err := errors.Join(atMost("elements of JSON", elements, limit), atMost("nested elements of JSON", deep, deepest)); err != nil {
		return err
	}
	return json.Unmarshal(content, into)
}

// readFile reads a file that may be endless, of which limit bytes are sensible.
func readFile(fsys fs.FS, name string, limit int64) ([]byte, error) {
	file, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	content, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, err
	}
	return content, atMost("bytes of "+name, int64(len(content)), limit)
}
