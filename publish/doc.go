// Package publish is the verbs on OCI artifacts of disk images: push, pull, inspect and
// verify. It knows nothing of how images are built: an artifact.Release says all that it
// needs. What an artifact holds is in publish/artifact, where it lies in publish/registry.
package publish
