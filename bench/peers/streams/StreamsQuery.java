import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.SerializationException;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.EmitStrategy;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KGroupedStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.TimeWindowedKStream;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.kstream.WindowedSerdes;

/**
 * The query in Kafka Streams, exactly once, state in RocksDB, results in a topic.
 *
 * <pre>StreamsQuery BROKERS TOPIC RECORDS RESULTS STATE_DIRECTORY tumbling_final|tumbling_changes|group_by</pre>
 *
 * <p>The topic is keyed by symbol, so nothing is repartitioned. The topic RESULTS exists, and names the application.
 * Ends when the offsets of all records are committed.
 */
public final class StreamsQuery {
    private static final Duration WINDOW = Duration.ofMinutes(5);
    private static final Duration DELAY = Duration.ofSeconds(10);
    private static final JsonFactory JSON = new JsonFactory();

    private static Progress progress;

    record Trade(String symbol, double price, long time) {
        /** Only what the query needs; the rest of the record is checked by the parser, and skipped. */
        static Trade parse(byte[] json) {
            String symbol = null;
            double price = 0;
            long time = -1;

            progress.add();
            try (JsonParser parser = JSON.createParser(json)) {
                parser.nextToken();
                while (parser.nextToken() == JsonToken.FIELD_NAME) {
                    String name = parser.currentName();

                    parser.nextToken();
                    switch (name) {
                        case "symbol" -> symbol = parser.getText();
                        case "price" -> price = parser.getDoubleValue();
                        case "ts" -> time = Instant.parse(parser.getText()).toEpochMilli();
                        default -> parser.skipChildren();
                    }
                }
            } catch (IOException e) {
                throw new SerializationException(e);
            }
            return new Trade(symbol, price, time);
        }
    }

    record Average(double sum, long count) {
        Average add(double value) {
            return new Average(sum + value, count + 1);
        }

        byte[] toBytes() {
            return ByteBuffer.allocate(16).putDouble(sum).putLong(count).array();
        }

        static Average fromBytes(byte[] bytes) {
            if (bytes == null) {
                return null;
            }
            ByteBuffer buffer = ByteBuffer.wrap(bytes);
            return new Average(buffer.getDouble(), buffer.getLong());
        }

        byte[] toJson() {
            return ("{\"avg_price\":" + sum / count + ",\"n\":" + count + "}").getBytes(StandardCharsets.UTF_8);
        }
    }

    private static final Serde<Trade> TRADE = Serdes.serdeFrom(
            (topic, trade) -> {
                throw new UnsupportedOperationException("trades are only read");
            },
            (topic, bytes) -> Trade.parse(bytes));
    private static final Serde<Average> AVERAGE = Serdes.serdeFrom(
            (topic, average) -> average == null ? null : average.toBytes(),
            (topic, bytes) -> Average.fromBytes(bytes));
    private static final Serde<Average> RESULT =
            Serdes.serdeFrom((topic, average) -> average.toJson(), (topic, bytes) -> null);

    private static void windowed(KGroupedStream<String, Trade> trades, EmitStrategy emit, String results) {
        TimeWindowedKStream<String, Trade> windows =
                trades.windowedBy(TimeWindows.ofSizeAndGrace(WINDOW, DELAY));

        windows.emitStrategy(emit)
                .aggregate(
                        () -> new Average(0, 0),
                        (symbol, trade, average) -> average.add(trade.price()),
                        Materialized.with(Serdes.String(), AVERAGE))
                .toStream()
                .to(results, Produced.with(WindowedSerdes.timeWindowedSerdeFrom(String.class, WINDOW.toMillis()), RESULT));
    }

    private static void grouped(KGroupedStream<String, Trade> trades, String results) {
        trades.aggregate(
                        () -> new Average(0, 0),
                        (symbol, trade, average) -> average.add(trade.price()),
                        Materialized.with(Serdes.String(), AVERAGE))
                .toStream()
                .to(results, Produced.with(Serdes.String(), RESULT));
    }

    public static void main(String[] args) throws Exception {
        String brokers = args[0];
        String topic = args[1];
        String results = args[3];
        TopicPartition partition = new TopicPartition(topic, 0);
        long records = Long.parseLong(args[2]);
        StreamsBuilder builder = new StreamsBuilder();
        Properties properties = new Properties();

        progress = new Progress(records);
        properties.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, brokers);
        properties.put(StreamsConfig.APPLICATION_ID_CONFIG, results);
        properties.put(StreamsConfig.STATE_DIR_CONFIG, args[4]);
        properties.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        properties.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        properties.put(StreamsConfig.TOPOLOGY_OPTIMIZATION_CONFIG, StreamsConfig.OPTIMIZE);
        properties.put(ConsumerConfig.MAX_POLL_RECORDS_CONFIG, 10_000);

        KGroupedStream<String, Trade> trades = builder.stream(
                        topic,
                        Consumed.with(Serdes.String(), TRADE)
                                .withTimestampExtractor((record, time) -> ((Trade) record.value()).time()))
                .filter((symbol, trade) -> trade.price() > 100)
                .groupByKey(Grouped.with(Serdes.String(), TRADE));
        switch (args[5]) {
            case "tumbling_final" -> windowed(trades, EmitStrategy.onWindowClose(), results);
            case "tumbling_changes" -> windowed(trades, EmitStrategy.onWindowUpdate(), results);
            case "group_by" -> grouped(trades, results);
            default -> throw new IllegalArgumentException(args[5]);
        }

        try (Admin admin = Admin.create(Map.of("bootstrap.servers", brokers));
                KafkaStreams streams = new KafkaStreams(builder.build(properties), properties)) {
            streams.setUncaughtExceptionHandler(e -> {
                e.printStackTrace();
                Runtime.getRuntime().halt(1);
                return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
            });
            streams.start();
            OffsetAndMetadata committed;
            do {
                Thread.sleep(20);
                committed = admin.listConsumerGroupOffsets(results)
                        .partitionsToOffsetAndMetadata()
                        .get()
                        .get(partition);
            } while (committed == null || committed.offset() < records);
            progress.print();
        }
    }

    private StreamsQuery() {}
}
