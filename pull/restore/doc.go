// Package restore writes a snapshot, or a part of it, to an SFTP or FTP server or to a local
// directory.
//
// What lies in the path comes to lie directly in the destination. Files are written beside
// their place, under a name that says which version they are of, made durable where the
// protocol can, and renamed: nobody sees half a file, and a file that is there is replaced at
// once or not at all. Directories get their attributes when all that is in them is there, the
// deepest first.
//
// # Again after a cut
//
// A restore that was cut off is run again. What is there with the size and the time of the
// snapshot's is taken as restored. A temporary file of the same version is read back and
// compared; it is gone on with behind the bytes that agree. Within a run only what was not made
// durable by the server is compared again.
//
// # What is never done
//
// A file in the place of a directory, or the other way round, is a Problem and stays. A symbolic
// link in the place of a directory is not followed. Nothing is removed without Delete, and then
// only after all was restored, only what a whole listing has shown, only where the snapshot is not
// known to lack something, and only with the word of Confirm. A symbolic link that the protocol of the destination has not
// (FTP's) is left out, which is no Problem, and what lies in its place stays. Devices, sockets and pipes, which no
// snapshot has, are removed only with the directory that they are in. Names of a snapshot that no path can have are Problems.
//
// # Errors
//
// What cannot be restored is a Problem in the Report, and the rest is restored. Run returns an
// error only when it cannot go on: the connection or the store is lost for good, the disk is
// full, or the context has ended.
package restore
