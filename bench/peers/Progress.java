import com.sun.management.OperatingSystemMXBean;
import java.lang.management.ManagementFactory;

/**
 * What a consumer is measured by, as in bench.h: time from the first record on, CPU of all threads from the start of the
 * process on, so with the start of the JVM, its compiler and its garbage collector; and both for the second half.
 *
 * <p>For one thread at a time.
 */
final class Progress {
    private static final OperatingSystemMXBean PROCESS =
            (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();

    private final long total;
    private long done;
    private long firstDone;
    private long firstTime;
    private long halfDone;
    private long halfTime;
    private long halfCpu;

    Progress(long total) {
        this.total = total;
    }

    /** So many records are done by now. */
    void reached(long records) {
        if (done == 0 && records > 0) {
            firstDone = records;
            firstTime = System.nanoTime();
        }
        if (halfDone == 0 && 2 * records >= total) {
            halfDone = records;
            halfTime = System.nanoTime();
            halfCpu = PROCESS.getProcessCpuTime();
        }
        done = records;
    }

    /** One more is done. */
    void add() {
        reached(done + 1);
    }

    boolean isComplete() {
        return done >= total;
    }

    /** Prints the figures; to be called when the results of all records are committed. */
    void print() {
        long time = System.nanoTime();
        long cpu = PROCESS.getProcessCpuTime();

        System.out.printf(
                "%.0f %.0f %.4f %.4f%n",
                (total - firstDone) * 1e9 / (time - firstTime),
                (total - halfDone) * 1e9 / (time - halfTime),
                cpu / 1e3 / total,
                (cpu - halfCpu) / 1e3 / (total - halfDone));
    }
}
