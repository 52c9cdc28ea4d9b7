import java.util.Map;
import java.util.Properties;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.metrics.Counter;
import org.apache.flink.metrics.Metric;
import org.apache.flink.metrics.MetricConfig;
import org.apache.flink.metrics.MetricGroup;
import org.apache.flink.metrics.reporter.MetricReporter;
import org.apache.flink.metrics.reporter.MetricReporterFactory;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.flink.table.api.TableResult;

/**
 * The query in Flink SQL, exactly once, in a cluster within this process, results in a topic.
 *
 * <pre>FlinkQuery BROKERS TOPIC RECORDS RESULTS STATE_DIRECTORY tumbling_final|group_by</pre>
 *
 * <p>The topic RESULTS exists. The source is bounded by the end of its topic; the job ends when all results are
 * committed.
 */
public final class FlinkQuery {
    /** Records that the source has read. Flink updates it without synchronization, and lets others read it so. */
    private static volatile Counter read;

    /** Finds the source's counter among Flink's metrics; named in META-INF/services. */
    public static final class SourceReporter implements MetricReporter, MetricReporterFactory {
        @Override
        public MetricReporter createMetricReporter(Properties properties) {
            return this;
        }

        @Override
        public void open(MetricConfig config) {}

        @Override
        public void close() {}

        @Override
        public void notifyOfAddedMetric(Metric metric, String name, MetricGroup group) {
            String operator = group.getAllVariables().getOrDefault("<operator_name>", "");

            if (name.equals("numRecordsIn") && operator.startsWith("Source:")) {
                read = (Counter) metric;
            }
        }

        @Override
        public void notifyOfRemovedMetric(Metric metric, String name, MetricGroup group) {}
    }

    private static final String SOURCE =
            """
            CREATE TABLE trades (
                symbol STRING, price DOUBLE, volume BIGINT, ts TIMESTAMP_LTZ(3),
                WATERMARK FOR ts AS ts - INTERVAL '10' SECOND)
            WITH ('connector' = 'kafka', 'topic' = '%s', 'properties.bootstrap.servers' = '%s',
                'properties.group.id' = '%s', 'scan.startup.mode' = 'earliest-offset',
                'scan.bounded.mode' = 'latest-offset',
                'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601')
            """;
    private static final String SINK_OPTIONS =
            """
            'topic' = '%s', 'properties.bootstrap.servers' = '%s', 'sink.delivery-guarantee' = 'exactly-once',
            'sink.transactional-id-prefix' = '%s', 'properties.transaction.timeout.ms' = '600000'
            """;
    private static final String TUMBLING_SINK =
            """
            CREATE TABLE results (window_start TIMESTAMP(3), window_end TIMESTAMP(3), symbol STRING, avg_price DOUBLE, n BIGINT)
            WITH ('connector' = 'kafka', 'format' = 'json', %s)
            """;
    private static final String TUMBLING =
            """
            INSERT INTO results
            SELECT window_start, window_end, symbol, AVG(price), COUNT(*)
            FROM TUMBLE(TABLE trades, DESCRIPTOR(ts), INTERVAL '5' MINUTES)
            WHERE price > 100
            GROUP BY window_start, window_end, symbol
            """;
    private static final String GROUP_BY_SINK =
            """
            CREATE TABLE results (symbol STRING, avg_price DOUBLE, n BIGINT, PRIMARY KEY (symbol) NOT ENFORCED)
            WITH ('connector' = 'upsert-kafka', 'key.format' = 'json', 'value.format' = 'json', %s)
            """;
    private static final String GROUP_BY =
            """
            INSERT INTO results
            SELECT symbol, AVG(price), COUNT(*) FROM trades WHERE price > 100 GROUP BY symbol
            """;

    public static void main(String[] args) throws Exception {
        String brokers = args[0];
        String topic = args[1];
        String results = args[3];
        boolean tumbling = args[5].equals("tumbling_final");
        String sinkOptions = SINK_OPTIONS.formatted(results, brokers, results);
        Progress progress = new Progress(Long.parseLong(args[2]));
        Configuration configuration = Configuration.fromMap(Map.of(
                "parallelism.default", "1",
                "pipeline.object-reuse", "true",
                "execution.checkpointing.interval", "1 s",
                "execution.checkpointing.mode", "EXACTLY_ONCE",
                "execution.checkpointing.dir", "file://" + args[4],
                "table.exec.mini-batch.enabled", "true",
                "table.exec.mini-batch.allow-latency", "100 ms",
                "table.exec.mini-batch.size", "50000",
                "metrics.reporters", "source",
                "metrics.reporter.source.factory.class", SourceReporter.class.getName()));
        TableEnvironment flink = TableEnvironment.create(
                EnvironmentSettings.newInstance().inStreamingMode().withConfiguration(configuration).build());

        if (!tumbling && !args[5].equals("group_by")) {
            throw new IllegalArgumentException(args[5]);
        }
        flink.executeSql(SOURCE.formatted(topic, brokers, results));
        flink.executeSql((tumbling ? TUMBLING_SINK : GROUP_BY_SINK).formatted(sinkOptions));

        TableResult job = flink.executeSql(tumbling ? TUMBLING : GROUP_BY);
        while (!progress.isComplete()) {
            Thread.sleep(5);
            if (read != null) {
                progress.reached(read.getCount());
            }
        }
        job.await();
        progress.print();
        // threads of the cluster may be left
        System.exit(0);
    }

    private FlinkQuery() {}
}
