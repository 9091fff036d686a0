resource "aws_eip" "nat" {
  # checkov:skip=CKV2_AWS_19:the address belongs to the NAT gateway below, which the check does not know
  for_each = local.nat_for
  domain   = "vpc"
  tags     = { Name = "${var.name}-nat-${each.key}" }
}

resource "aws_nat_gateway" "this" {
  for_each      = local.nat_for
  subnet_id     = aws_subnet.public[each.key].id
  allocation_id = aws_eip.nat[each.key].id
  tags          = { Name = "${var.name}-${each.key}" }
  depends_on    = [aws_internet_gateway.this]
}

resource "aws_route" "private_out" {
  for_each               = var.nat == "none" ? {} : local.zones
  route_table_id         = aws_route_table.private[each.key].id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.this[var.nat == "one" ? var.availability_zones[0] : each.key].id
}

resource "aws_cloudwatch_metric_alarm" "nat_ports" {
  for_each            = aws_nat_gateway.this
  alarm_name          = "${var.name}-nat-ports-${each.key}"
  alarm_description   = "The NAT gateway in ${each.key} could not allocate a port: connections out are failing. Runbook: docs/runbooks/quota.md"
  namespace           = "AWS/NATGateway"
  metric_name         = "ErrorPortAllocation"
  dimensions          = { NatGatewayId = each.value.id }
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  threshold           = 0
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = [var.alerts_topic_arn]
}
