package recommend

type deep struct{}
