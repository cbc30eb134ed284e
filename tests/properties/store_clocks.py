"""Clocks for stores under test, which stand still until they are told to go on."""

from dataclasses import dataclass


@dataclass
class FakeClocks:
    """Implements `fastmq.store.clock.Clocks`."""

    boot: int = 5_000
    wall: int = 1_700_000_000_000
    id: str = "first-boot"

    def boot_ms(self) -> int:
        return self.boot

    def wall_ms(self) -> int:
        return self.wall

    def boot_id(self) -> str:
        return self.id

    def pass_ms(self, ms: int) -> None:
        self.boot += ms
        self.wall += ms

    def reboot(self, away_ms: int) -> None:
        """The machine is off for a while."""
        self.boot, self.wall, self.id = 100, self.wall + away_ms, self.id + "+"
