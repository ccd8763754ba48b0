// Package publish makes OCI artifacts of disk images, pushes them to any
// oras.Target, and pulls, inspects and verifies them. It knows nothing of how
// images are built: a Release says all that it needs.
//
// A release is an index with one leaf per architecture. A leaf is an image-spec
// 1.1 manifest of ArtifactType with a Config and one disk layer. What proves and
// describes the disk is attached to the leaf as referrers.
package publish
