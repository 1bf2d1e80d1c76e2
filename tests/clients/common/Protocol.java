import ch.qos.logback.classic.Level;
import ch.qos.logback.classic.Logger;
import ch.qos.logback.classic.LoggerContext;
import ch.qos.logback.classic.spi.ILoggingEvent;
import ch.qos.logback.classic.spi.IThrowableProxy;
import ch.qos.logback.core.AppenderBase;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Collection;
import java.util.Map;
import java.util.Set;
import java.util.function.Consumer;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.slf4j.LoggerFactory;

/**
 * The protocol between a test bot and the harness, for the bots that run on the JVM: what a bot is told by its environment, the
 * JSON lines that it prints, and the JSON lines that it reads. See ../README.md.
 */
public final class Protocol {
    public static final String GATEWAY_URL = required("GATEWAY_URL");
    public static final String API_URL = required("API_URL");
    public static final String LOGIN = System.getenv().getOrDefault("LOGIN", "");
    public static final String TOKEN = required("TOKEN");
    public static final int SHARDS = Integer.parseInt(required("SHARDS"));
    public static final int INTENTS = Integer.parseInt(System.getenv().getOrDefault("INTENTS", "53608447"));
    public static final String COMPRESS = System.getenv().getOrDefault("COMPRESS", "");

    /** Exceptions that say that a connection has ended. */
    private static final Set<String> CUT = Set.of(".EOFException", ".SocketException", ".ClosedReceiveChannelException");

    private static final Pattern NUMBER = Pattern.compile("^n:(\\d+)");

    private Protocol() {}

    private static String required(String name) {
        String value = System.getenv(name);
        if (value == null || value.isEmpty()) {
            System.err.println("the environment variable " + name + " is not set; tests/clients/README.md lists all of them");
            System.exit(2);
        }
        return value;
    }

    /** Prints one event as one line; the fields are names and values in turn. */
    public static synchronized void emit(String event, Object... fields) {
        StringBuilder line = new StringBuilder("{\"event\":").append(json(event));
        for (int i = 0; i < fields.length; i += 2) {
            line.append(',').append(json(fields[i])).append(':').append(json(fields[i + 1]));
        }
        System.out.println(line.append('}'));
        System.out.flush();
    }

    private static String json(Object value) {
        if (value instanceof Number || value instanceof Boolean || value == null) {
            return String.valueOf(value);
        }
        if (value instanceof Collection<?> list) {
            return "[" + String.join(",", list.stream().map(Protocol::json).toList()) + "]";
        }
        if (value instanceof Map<?, ?> map) {
            return "{" + String.join(",", map.entrySet().stream()
                .map(entry -> json(entry.getKey().toString()) + ":" + json(entry.getValue())).toList()) + "}";
        }
        StringBuilder text = new StringBuilder("\"");
        for (char c : value.toString().toCharArray()) {
            if (c == '"' || c == '\\') {
                text.append('\\').append(c);
            } else if (c < ' ') {
                text.append(String.format("\\u%04x", (int) c));
            } else {
                text.append(c);
            }
        }
        return text.append('"').toString();
    }

    /** Tells the harness of something that should not happen. */
    public static void fail(Object error) {
        if (error instanceof Throwable throwable) {
            throwable.printStackTrace();
        }
        emit("error", "message", String.valueOf(error));
    }

    /** The number k of a message whose content is {@code n:<k>}, perhaps with padding behind it; else null. */
    public static Long numberOf(String content) {
        Matcher found = NUMBER.matcher(content == null ? "" : content);
        return found.find() ? Long.valueOf(found.group(1)) : null;
    }

    /** Sends the library's log to standard error; errors, and warnings that contain one of {@code bad}, are errors to the test. */
    public static void watchLog(String... bad) {
        LoggerContext context = (LoggerContext) LoggerFactory.getILoggerFactory();
        context.reset();
        AppenderBase<ILoggingEvent> appender = new AppenderBase<>() {
            @Override
            protected void append(ILoggingEvent event) {
                System.err.println(event.getLevel() + " " + event.getLoggerName() + " " + event.getFormattedMessage());
                boolean wrong = event.getLevel().isGreaterOrEqual(Level.ERROR);
                for (String text : bad) {
                    wrong |= event.getFormattedMessage().contains(text);
                }
                IThrowableProxy thrown = event.getThrowableProxy();
                // A connection that was cut is no error of the library: it makes a new one.
                wrong &= thrown == null || CUT.stream().noneMatch(thrown.getClassName()::endsWith);
                String cause = thrown == null ? "" : ": " + thrown.getClassName() + ": " + thrown.getMessage();
                if (thrown != null) {
                    System.err.println(cause);
                }
                if (wrong) {
                    fail(event.getLoggerName() + ": " + event.getFormattedMessage() + cause);
                }
            }
        };
        appender.setContext(context);
        appender.start();
        Logger root = context.getLogger(org.slf4j.Logger.ROOT_LOGGER_NAME);
        root.setLevel(Level.toLevel(System.getenv("LOG_LEVEL"), Level.INFO));
        root.addAppender(appender);
    }

    /**
     * Reads commands in a thread of its own and calls the function of that name with the command. The end of standard input means
     * that the harness is gone: the bot ends too.
     */
    public static void listen(Map<String, Consumer<Command>> handlers) {
        Thread reader = new Thread(() -> {
            try (BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
                for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                    Command command = new Command(line);
                    if (command.text("cmd").equals("exit")) {
                        break;
                    }
                    try {
                        handlers.get(command.text("cmd")).accept(command);
                    } catch (RuntimeException error) {
                        fail(error);
                    }
                }
            } catch (java.io.IOException error) {
                fail(error);
            }
            Runtime.getRuntime().halt(0);
        });
        reader.setDaemon(true);
        reader.start();
    }

    /** One command: a flat JSON object of strings and numbers. */
    public record Command(String line) {
        /** A field as text. */
        public String text(String name) {
            Matcher found = Pattern.compile("\"" + name + "\"\\s*:\\s*(?:\"([^\"]*)\"|(\\d+))").matcher(line);
            if (!found.find()) {
                throw new IllegalArgumentException(line + ": no " + name);
            }
            return found.group(1) == null ? found.group(2) : found.group(1);
        }

        /** A field as number. */
        public int number(String name) {
            return Integer.parseInt(text(name));
        }
    }
}
