package main

import (
	"bytes"
	"context"
	"errors"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"

	"github.com/pkg/sftp"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
)

// cmdRandom makes a file of random bytes, the same ones for the same name: random FILE BYTES
func cmdRandom(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: random FILE BYTES")
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	seed := fnv.New64a()
	_, _ = seed.Write([]byte(args[0])) // never fails
	rng := rand.New(rand.NewPCG(seed.Sum64(), 0))
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o600))
}

// cmdSplice writes a file over a part of another: splice FROM OFFSET|end FILE
func cmdSplice(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: splice FROM OFFSET|end FILE")
	}
	from, data := []byte(ts.ReadFile(args[0])), []byte(ts.ReadFile(args[2]))
	off, err := scriptOffset(args[1], int64(len(data)))
	ts.Check(err)
	if end := off + int64(len(from)); end > int64(len(data)) {
		data = append(data, make([]byte, end-int64(len(data)))...)
	}
	copy(data[off:], from)
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), data, 0o600))
}

func scriptOffset(s string, size int64) (int64, error) {
	if s == "end" {
		return size, nil
	}
	return strconv.ParseInt(s, 10, 64)
}

// scriptPatch writes data into a stored file, as sftp's put -a does at its end.
func scriptPatch(c *sftp.Client, data []byte, offset, remote string) error {
	info, err := c.Stat(remote)
	if err != nil {
		return err
	}
	off, err := scriptOffset(offset, info.Size())
	if err != nil {
		return err
	}
	f, err := c.OpenFile(remote, os.O_WRONLY)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, off)
	return errors.Join(err, f.Close())
}

// cmdCheck has kloset check the snapshot whose ID is the last line of a file: check FILE
func cmdCheck(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: check FILE")
	}
	ts.Check(scriptCheck(context.Background(), "fs://"+ts.MkAbs("data/store"), ts.Getenv("PASSPHRASE"), ts.ReadFile(args[0])))
}

func scriptCheck(ctx context.Context, location, passphrase, printed string) (err error) {
	lines := strings.Fields(printed)
	if len(lines) == 0 {
		return errors.New("no snapshot")
	}
	id, err := snapshotter.ParseID(lines[len(lines)-1])
	if err != nil {
		return err
	}
	st, err := store.Open(ctx, store.Config{
		Location: location, Passphrase: func(context.Context) ([]byte, error) { return bytes.Clone([]byte(passphrase)), nil },
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	snaps, err := snapshotter.New(ctx, snapshotter.Config{Store: st})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, snaps.Close()) }()
	return snaps.Check(ctx, id)
}
