// Package bench measures a gateway beside OpenSSH's sshd: the same client does the same to
// both, in turns, on the same machine and disk. The tests (build tag bench, make bench)
// print lines for docs/BENCHMARKS.md; what they say depends on the machine, the ratios
// less than the rest. They fail when something does not work, never because it is slow.
package bench
