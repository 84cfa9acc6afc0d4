package snapshotter

import (
	"context"
	"sync"
)

// sharedObjects are the objects of the Shared contents of a commit. Safe for concurrent use.
type sharedObjects struct {
	mu   sync.Mutex
	made map[any]*sharedObject // by Identity; guarded by mu
}

// sharedObject is an object that is made, or being made until done is closed.
type sharedObject struct {
	done chan struct{}
	obj  object
	err  error
}

// once returns the object of a content. Who is first makes it, and the others wait for that: no name has a part in an
// object, since the bytes decide on the type of a content.
func (s *sharedObjects) once(ctx context.Context, identity any, read func() (object, error)) (object, error) {
	o, first := s.get(identity)
	if first {
		defer close(o.done)
		o.obj, o.err = read()
		return o.obj, o.err
	}
	select {
	case <-o.done:
		return o.obj, o.err
	case <-ctx.Done():
		return object{}, ctx.Err()
	}
}

func (s *sharedObjects) get(identity any) (o *sharedObject, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o = s.made[identity]; o != nil {
		return o, false
	}
	if s.made == nil {
		s.made = map[any]*sharedObject{}
	}
	o = &sharedObject{done: make(chan struct{})}
	s.made[identity] = o
	return o, true
}
