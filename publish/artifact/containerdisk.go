package artifact

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"io/fs"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/btw-img/btw-img/orchestrator/files"
)

// qemuUser is the user that KubeVirt runs QEMU as; it must be able to read the
// disk (KubeVirt user guide, containerDisk).
const qemuUser = 107

// packContainerDisk makes a container image with the first disk in /disk, as
// KubeVirt and CDI take it. The layer is an uncompressed tar, made while it is
// sent: a disk compressed by qemu-img gains nothing from gzip.
func packContainerDisk(ctx context.Context, b *Bundle, r Release, from fs.FS) (ocispec.Descriptor, error) {
	d := r.Disks[0]
	open := func() (io.ReadCloser, error) { return containerLayer(r, d, from) }
	rc, err := open()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer rc.Close()
	digester := digest.SHA256.Digester()
	size, err := files.Copy(ctx, digester.Hash(), rc)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	layer := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digester.Digest(), Size: size}
	b.blobs[layer.Digest] = open
	created := r.Created.UTC()
	config, err := b.json(ocispec.MediaTypeImageConfig, ocispec.Image{
		Created: &created, Platform: ocispec.Platform{OS: "linux", Architecture: r.Architecture},
		RootFS:  ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}},
		History: []ocispec.History{{Created: &created, CreatedBy: r.Tool, Comment: d.Name}},
	})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	annotations := r.annotations(d.Name)
	delete(annotations, ocispec.AnnotationTitle) // a title would make "oras pull" write the config
	return b.manifest(ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, Config: config, Layers: []ocispec.Descriptor{layer}, Annotations: annotations})
}

// containerLayer is the layer as a stream: tar header, disk, tar trailer.
func containerLayer(r Release, d Disk, from fs.FS) (io.ReadCloser, error) {
	file, err := from.Open(d.Name)
	if err != nil {
		return nil, NotBuilt(err)
	}
	var head bytes.Buffer
	archive := tar.NewWriter(&head)
	created := r.Created.UTC()
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeDir, Name: "disk/", Mode: 0o555, Uid: qemuUser, Gid: qemuUser, ModTime: created},
		{Typeflag: tar.TypeReg, Name: "disk/" + d.Name, Mode: 0o440, Uid: qemuUser, Gid: qemuUser, ModTime: created, Size: d.Size},
	} {
		if err := archive.WriteHeader(&h); err != nil {
			_ = file.Close()
			return nil, err
		}
	}
	const block = 512
	padding := (block - d.Size%block) % block
	tail := make([]byte, padding+2*block)
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(&head, io.LimitReader(file, d.Size), bytes.NewReader(tail)), file}, nil
}
