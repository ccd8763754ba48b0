// Package registry is where artifacts are: repositories of registries (OCI
// distribution-spec 1.1), OCI image layouts in folders, and archives of them. It owns what
// references mean, credentials, connections, repetitions after failures, and how blobs get
// into files. What is pushed to is an oras.Target. It knows nothing of what artifacts hold.
package registry
