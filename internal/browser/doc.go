// Package browser tests the web viewer in Chromium: clicking and typing through every page, at the
// size of a phone and of a desk, with the keyboard alone, and with axe-core, which finds what people
// cannot read or use. `make peers` runs it; with -args -shots DIR it keeps pictures of the pages.
package browser
