/* folders.h - files that are replaced in a running Machine (coffer.runtime.update/1).
 *
 * Each of their folders is a tmpfs of its own in the Machine's mount namespace, at folderN in the Machine's
 * folder, which is its caller's alone, and bound read-only over the guest path.  It is written there only, by
 * a way that nobody else can bend: the guest path may lie below folders of the Machine's user.  In it, as
 * Kubernetes has it: ..N, one generation of the files; ..data, a link to it; NAME, a link to ..data/NAME. */
#ifndef COFFER_RUNTIME_PROCESS_FOLDERS_H
#define COFFER_RUNTIME_PROCESS_FOLDERS_H
#include "boot_frame.h"
#include "stage.h"

/* The folder of the spec that the file lies in, or NULL: it is delivered alone. */
const char *folder_of(const struct spec *, const char *file);

/* Makes all of them, with the files of the frame; a failure ends this process.  REQUIRES: the Machine's
 * namespace, FD_FOLDER in it. */
void deliver_folders(const struct spec *, const struct coffer_boot_frame *, int channel);

/* Puts the files of the boot frame on descriptor 0 into the running Machine on FD_FOLDER; FD_STATUS hears
 * STEP_OK or one failure.  Each folder has the old files or the new ones, whatever happens. */
int update(const char *instance_id);
#endif
