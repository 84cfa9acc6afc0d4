package config

import (
	"cmp"
	"slices"
)

// DefaultStore is the name of the store that the store section describes.
const DefaultStore = "default"

// readStores reads the stores section: more stores, by name.
func (l *loader) readStores(n node) {
	l.named(n, "store", map[string]node{}, func(name string, n node) {
		if name == DefaultStore {
			n.failHint("give it another name", "%s is the name of what the store section describes", DefaultStore)
			return
		}
		st := Store{Name: name, at: n}
		if !l.readStoreInto(n, &st) {
			return
		}
		if st.Location == "" && n.clean() {
			n.failHint("add location: sftp://host/path, s3://host/bucket or a directory", "location is missing")
		}
		l.cfg.Stores = append(l.cfg.Stores, st)
	})
	slices.SortFunc(l.cfg.Stores, func(a, b Store) int { return cmp.Compare(a.Name, b.Name) })
}

// AllStores lists the configured stores, the one that is served first.
func (c *Config) AllStores() []*Store {
	all := []*Store{&c.Store}
	for i := range c.Stores {
		all = append(all, &c.Stores[i])
	}
	return all
}

// StoreNames lists the names of the configured stores.
func (c *Config) StoreNames() []string {
	var names []string
	for _, st := range c.AllStores() {
		names = append(names, st.Name)
	}
	return names
}

// StoreNamed returns a configured store, nil when there is none of that name.
func (c *Config) StoreNamed(name string) *Store {
	for _, st := range c.AllStores() {
		if st.Name == name {
			return st
		}
	}
	return nil
}
