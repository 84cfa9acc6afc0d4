package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
)

// PutBytes writes a small file.
func PutBytes(ctx context.Context, files Files, name string, data []byte) error {
	_, err := files.Put(ctx, name, bytes.NewReader(data))
	return err
}

// GetBytes reads a small file as a whole; one larger than limit is an error.
func GetBytes(ctx context.Context, files Files, name string, limit int64) ([]byte, error) {
	rd, err := files.Get(ctx, name, 0, limit+1)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(rd)
	if err := errors.Join(err, rd.Close()); err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	return data, nil
}
