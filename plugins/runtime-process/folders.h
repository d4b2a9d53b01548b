/* folders.h - files that are replaced in a running Machine (coffer.runtime.update/1).
 *
 * Their folder is a tmpfs of its own in the Machine's mount namespace, read-only there.  In it, as Kubernetes
 * has it: ..N, one generation of the files; ..data, a link to it; NAME, a link to ..data/NAME. */
#ifndef COFFER_RUNTIME_PROCESS_FOLDERS_H
#define COFFER_RUNTIME_PROCESS_FOLDERS_H
#include "boot_frame.h"
#include "stage.h"

/* The folder of the spec that the file lies in, or NULL: it is delivered alone. */
const char *folder_of(const struct spec *, const char *file);

/* 0 or errno.  REQUIRES: the Machine's namespace. */
int folder_mount(const char *folder, size_t n_files);
int folder_seal(const char *folder); /* read-only for whoever is in this namespace */
/* All files of the frame that belong there: the next generation, and an end of the one before. */
int folder_replace(const struct spec *, const char *folder, const struct coffer_boot_frame *);

/* Puts the files of the boot frame on descriptor 0 into the running Machine on FD_FOLDER; FD_STATUS hears
 * STEP_OK or one failure.  Each folder has the old files or the new ones, whatever happens. */
int update(const char *instance_id);
#endif
