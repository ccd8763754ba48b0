package registry

import (
	"errors"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/btw-img/btw-img/publish/registry/registrytest"
)

func TestMain(m *testing.M) { registrytest.Main(m) }

func parse(t *testing.T, s string) Reference {
	t.Helper()
	ref, err := ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// in is a repository of a server.
func in(t *testing.T, server *httptest.Server, repository string) Reference {
	t.Helper()
	return parse(t, registrytest.Repository(server, repository))
}

func blob(text string) ocispec.Descriptor {
	return content.NewDescriptorFromBytes("application/octet-stream", []byte(text))
}

// send pushes a blob, and explains the failure as the verbs do.
func send(t *testing.T, a Access, ref Reference, text string) error {
	t.Helper()
	dst, err := a.OpenDestination(t.Context(), ref)
	if err != nil {
		return err
	}
	err = dst.Push(t.Context(), blob(text), strings.NewReader(text))
	if err == nil {
		err = dst.Commit(t.Context())
	}
	return errors.Join(Explain(ref.String(), err), dst.Close())
}

// folderNames is what is in a folder.
func folderNames(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
