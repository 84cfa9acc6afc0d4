package journal

// # Format
//
// A segment file is named by its number, 16 hexadecimal digits and ".wal". All numbers in
// it are little-endian. It begins with a header of headerBytes:
//
//	 0  magic "snapgjl" and a format version, 8 bytes
//	 8  flags, 4 bytes: 1 = encrypted
//	12  zero, 4 bytes
//	16  number of the segment, 8 bytes
//	24  prevEnd: the last position that counts in all earlier segments, 8 bytes
//	32  base: the position of the segment's first record, 8 bytes
//	40  salt, 16 random bytes
//	56  when encrypted: nonce (12), the segment's AES-256 key sealed with AES-256-GCM under
//	    Config.Key (32+16), bytes 0 to 56 as additional data
//	124 CRC-32C of bytes 0 to 124
//
// Frames follow, each at a multiple of frameAlign. A frame is a record or the end mark
// that a clean Close leaves:
//
//	 0  magic, 4 bytes
//	 4  kind, 1 byte; zero, 3 bytes
//	 8  length of the payload, 4 bytes
//	12  records of the same batch that follow, 4 bytes
//	16  position, 8 bytes
//	24  synced: the offset up to which the segment was durable when this was written
//	32  CRC-32C of the salt, the segment number and bytes 0 to 32, 4 bytes
//	36  plain: CRC-32C over bytes 0 to 36 and the payload, 4 bytes; encrypted: zero
//	40  payload; encrypted: sealed with AES-256-GCM under the segment's key, the nonce being
//	    kind and position, bytes 0 to 40 being additional data (16 bytes longer)
//
// # Torn tail or damage
//
// After a crash, whatever was written after the last sync may be there in part, in any
// order; all before it is there. So a bad frame alone says nothing, and neither does a
// good frame after a bad one. But every frame says up to which offset the segment was
// durable when it was written: a bad frame at offset X is damage exactly when some intact
// frame in the segment says that X was durable, and it is a torn tail when none does. To
// find such frames recovery searches the whole rest of the segment at every multiple of
// frameAlign. The salt in the checksum keeps clients from planting frames in a payload.
// A batch of which not all records are intact belongs to the tail as a whole.
//
// Two things remain. In the newest segment, damage to the last synced batch cannot be told
// from a torn tail unless the journal was closed cleanly: the end mark then vouches for
// it. A lost newest segment as a whole is not noticed here.
//
// In every segment but the newest, exactly the records up to the prevEnd of its successor
// count: all of them must be there and intact, and what follows them is ignored. That is
// how a tail is cut for good: no byte of it is touched, but the next segment's header
// excludes it.
//
// # Writing
//
// A segment gets its header and a sync under a temporary name, is renamed, and the
// directory is synced, before it takes a record. So a segment with a bad header is always
// damage. No segment is appended to after a failed or short write or sync, nor after a
// restart: the next Append starts a new one, whose key is new, too. A position is
// therefore sealed at most once under a key, which makes it a safe nonce.
//
// At recovery the records after the last known sync may exist in the page cache only.
// They are written again, the same bytes, and synced before they count.
