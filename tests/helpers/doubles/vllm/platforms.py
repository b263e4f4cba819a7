class current_platform:
    @staticmethod
    def is_cpu() -> bool:
        return True

    @staticmethod
    def get_device_name() -> str:
        return "a double"
