/*
 * A function for GNU make: $(pass-interrupts ), expanded in the last recipe make runs.
 *
 * On Ctrl-C make waits for its children and then ends by the same signal, whatever they returned. `make run`
 * must return what the machine returned: 0 when Ctrl-C shut it down cleanly. From the expansion on, make hands
 * SIGINT to its children and goes on waiting. Nothing else about make changes, and where it cannot load this,
 * `make run` still shuts the machine down and only its exit status is make's own.
 */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <unistd.h>

/* From gnumake.h, which is not installed everywhere. */
typedef char *(*gmk_func_ptr)(const char *name, unsigned int argc, char **argv);
extern void gmk_add_function(const char *name, gmk_func_ptr function, unsigned int min_args,
                             unsigned int max_args, unsigned int flags);

/* make asks every object it loads for this symbol. */
int plugin_is_GPL_compatible;

/* Calls nothing that a signal handler may not call. */
static void pass_to_children(int number)
{
    int saved_errno = errno;
    char list[4096];
    int file = open("/proc/thread-self/children", O_RDONLY);
    ssize_t length = file < 0 ? 0 : read(file, list, sizeof list);
    pid_t child = 0;
    for (ssize_t i = 0; i < length; i++) {
        if (list[i] >= '0' && list[i] <= '9') {
            child = child * 10 + (list[i] - '0');
        } else if (child > 0) {
            kill(child, number);
            child = 0;
        }
    }
    if (file >= 0)
        close(file);
    errno = saved_errno;
}

static char *pass_interrupts(const char *name, unsigned int argc, char **argv)
{
    (void)name, (void)argc, (void)argv;
    struct sigaction action = {.sa_handler = pass_to_children, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    return NULL;
}

/* The name is the file's. */
int make_interrupts_gmk_setup(void)
{
    gmk_add_function("pass-interrupts", pass_interrupts, 0, 1, 1);
    return 1;
}
