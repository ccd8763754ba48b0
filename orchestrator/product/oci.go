package product

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/btw-img/btw-img/orchestrator/arch"
	"github.com/btw-img/btw-img/orchestrator/fail"
	"github.com/btw-img/btw-img/orchestrator/rawdisk"
)

// whiteout is how the names of files begin that remove others (OCI image specification,
// Representing Changes).
const whiteout = ".wh."

// containerAttributes is those that container engines can set.
func containerAttributes(name string) bool {
	return strings.HasPrefix(name, "security.capability") || strings.HasPrefix(name, "user.")
}

// oci writes an OCI layout in an archive, with the manifest.json that Docker had before. Its
// image is the tree in one layer.
func (w *work) oci() error {
	if err := w.refuseWhiteouts(); err != nil {
		return err
	}
	layer, diffID, err := w.layer(filepath.Join(w.scratch, "layer"))
	if err != nil {
		return err
	}
	name := "localhost/" + w.reference()
	blobs := map[digest.Digest][]byte{}
	add := func(mediaType string, value any) (ocispec.Descriptor, error) {
		content, err := json.Marshal(value)
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
		blobs[d.Digest] = content
		return d, err
	}
	config, err := add(ocispec.MediaTypeImageConfig, w.containerConfig(diffID))
	if err != nil {
		return err
	}
	manifest, err := add(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{layer},
	})
	if err != nil {
		return err
	}
	manifest.Annotations = map[string]string{ocispec.AnnotationRefName: name, "io.containerd.image.name": name}
	manifest.Platform = &ocispec.Platform{Architecture: arch.Target.OCI, OS: "linux"}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{manifest}}
	docker := []any{map[string]any{"Config": blobPath(config.Digest), "RepoTags": []string{name}, "Layers": []string{blobPath(layer.Digest)}}}
	members := []member{
		{name: blobPath(config.Digest), content: blobs[config.Digest]},
		{name: blobPath(manifest.Digest), content: blobs[manifest.Digest]},
		{name: blobPath(layer.Digest), file: filepath.Join(w.scratch, "layer")},
	}
	for _, document := range []struct {
		name  string
		value any
	}{{ocispec.ImageIndexFile, index}, {"manifest.json", docker}, {ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}}} {
		content, err := json.Marshal(document.value)
		if err != nil {
			return err
		}
		members = append(members, member{name: document.name, content: content})
	}
	if err := w.pack(w.own(), members, uncompressed); err != nil {
		return err
	}
	return w.finished(w.own(), 0)
}

func blobPath(d digest.Digest) string { return path.Join("blobs", d.Algorithm().String(), d.Encoded()) }

// reference is NAME:VERSION as container engines take it.
func (w *work) reference() string {
	tag := w.Version
	if tag == "" {
		tag = "latest"
	}
	name := strings.Trim(notInReference.ReplaceAllString(strings.ToLower(w.Name), "-"), "-._")
	return cmp.Or(name, "image") + ":" + tag
}

// notInReference is what names of container images cannot hold.
var notInReference = regexp.MustCompile(`[^a-z0-9._]+`)

func (w *work) containerConfig(diffID digest.Digest) ocispec.Image {
	created := w.Epoch.UTC()
	return ocispec.Image{
		Created:  &created,
		Platform: ocispec.Platform{Architecture: arch.Target.OCI, OS: "linux"},
		Config: ocispec.ImageConfig{
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Cmd: []string{"/bin/sh"}, Labels: map[string]string{ocispec.AnnotationTitle: w.Name, ocispec.AnnotationDescription: w.Description},
		},
		RootFS:  ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
		History: []ocispec.History{{Created: &created, CreatedBy: "vmctl"}},
	}
}

// refuseWhiteouts refuses a tree with a name that would remove a file.
func (w *work) refuseWhiteouts() error {
	system, disk, err := w.system()
	if err != nil {
		return err
	}
	defer disk.Close()
	return system.Walk(w.ctx, func(e rawdisk.Entry) error {
		if strings.HasPrefix(path.Base(e.Path), whiteout) {
			return fail.New(fail.Usage, "", "rename it, or choose another format", "the tree has %q, a name which removes a file where containers are made of it", e.Path)
		}
		return nil
	})
}

// layer writes the compressed layer of the tree, and says what it is once it is unpacked.
func (w *work) layer(path string) (layer ocispec.Descriptor, diffID digest.Digest, err error) {
	packed, plain := digest.Canonical.Digester(), digest.Canonical.Digester()
	err = create(path, func(out io.Writer) error {
		compressor := gzip.NewWriter(io.MultiWriter(out, packed.Hash()))
		return errors.Join(w.writeTree(io.MultiWriter(compressor, plain.Hash()), containerAttributes), compressor.Close())
	})
	if err == nil {
		err = opened(path, func(in io.Reader) error {
			unpacked, err := gzip.NewReader(in)
			if err != nil {
				return err
			}
			return w.compareTree(unpacked, containerAttributes)
		})
	}
	if err != nil {
		return layer, "", err
	}
	info, err := os.Stat(path)
	if err != nil {
		return layer, "", err
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: packed.Digest(), Size: info.Size()}, plain.Digest(), nil
}
