package local

import "syscall"

// dieWithParent has the kernel send sig when the parent thread ends.
func dieWithParent(attr *syscall.SysProcAttr, sig syscall.Signal) { attr.Pdeathsig = sig }

// memory returns the free bytes of a file system in memory.
func memory(dir string) uint64 {
	const tmpfs = 0x01021994
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil || int64(fs.Type) != tmpfs { //nolint:unconvert // it is an int32 on some platforms
		return 0
	}
	return fs.Bavail * uint64(fs.Bsize)
}
