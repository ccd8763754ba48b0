// Package artifact is what is in an OCI artifact of a disk image: its manifests, the
// evidence and signatures that are attached to it, and whether they belong together. It
// is pure: files come from an fs.FS, and nothing is written or sent.
//
// A release is an index (OCI image-spec 1.1) with one leaf per architecture. A leaf is
// an image manifest of ArtifactType with a Config and one layer, the disk. What proves and
// describes the disk is attached to the leaf as referrers, each with a sibling tag.
package artifact
