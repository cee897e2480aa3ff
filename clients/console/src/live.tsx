// Everything that happens in the organization, as it happens.
import { Timeline } from "./timeline.tsx";

export function LivePage() {
  return (
    <section>
      <h1>Everything that happens</h1>
      <Timeline />
    </section>
  );
}
