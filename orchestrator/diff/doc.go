// Package diff says in what two disks differ: partition by partition, file by file,
// package by package. It reads ext4 and FAT itself, mounts and runs nothing, and takes
// nothing that a disk says on trust.
package diff
