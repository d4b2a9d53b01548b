/* enter.h - the way into a started Machine, and one command in it with the app's own environment. */
#ifndef COFFER_RUNTIME_PROCESS_ENTER_H
#define COFFER_RUNTIME_PROCESS_ENTER_H

#include "stage.h"

/* The Machine on FD_FOLDER; ends this process with a failure where it does not run. */
struct running {
  int guard, process; /* its supervisor; /proc/PID of its app */
};
struct running open_running(struct spec *);
/* Those of the app, but where we are in them already.  0 or errno. */
int join_namespaces(int process);

/* Descriptors 0, 1, 2 are the command's, FD_STATUS hears STEP_RUNNING and then STEP_OK with the exit code, or
 * one failure.  The command and all it started end with it, with the Machine, or when nobody reads FD_STATUS
 * any more.  `workdir` "" = the app's. */
int enter(const char *workdir, char **argv);
#endif
