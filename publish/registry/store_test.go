package registry

import (
	"encoding/json"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestManifestsAreKnownByTheirShape(t *testing.T) {
	for content, want := range map[string]string{
		`{"manifests": []}`:            ocispec.MediaTypeImageIndex,
		`{"config": {}, "layers": []}`: ocispec.MediaTypeImageManifest,
		`{"mediaType": "application/vnd.docker.distribution.manifest.v2+json", "config": {}}`: "application/vnd.docker.distribution.manifest.v2+json",
		`{"mediaType": "text/html", "config": {}, "layers": []}`:                              "",
		`{"config": {}}`: "", `{}`: "",
	} {
		var m manifestOfAnyKind
		if err := json.Unmarshal([]byte(content), &m); err != nil || m.kind() != want {
			t.Errorf("%s: %q, %v", content, m.kind(), err)
		}
	}
}
