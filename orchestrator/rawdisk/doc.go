// Package rawdisk reads what is on a disk: partition tables, the files of ext4 and FAT, and
// the tree that these are of a machine. It mounts and runs nothing, and takes nothing that a
// disk says on trust.
package rawdisk
