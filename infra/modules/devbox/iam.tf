resource "aws_iam_role" "box" {
  name                 = "${var.name}-devbox"
  permissions_boundary = var.permissions_boundary_arn
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ec2.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

resource "aws_iam_role_policy" "box" {
  # checkov:skip=CKV_AWS_290:what is written on "*" are the channels of the box's own session
  # checkov:skip=CKV_AWS_355:Session Manager's actions take no resource; the reason stands beside them
  name = "sessions-and-buckets"
  role = aws_iam_role.box.name
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid    = "AnswerSessionManager"
        Effect = "Allow"
        Action = [
          "ssm:UpdateInstanceInformation", "ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel",
          "ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel",
        ]
        # "*": AWS defines no resource for the channels (Service authorization reference, ssmmessages).
        Resource = "*"
      },
      {
        Sid      = "UseBuckets"
        Effect   = "Allow"
        Action   = ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
        Resource = [for one in var.bucket_arns : "${one}/*"]
      },
      { Sid = "ListBuckets", Effect = "Allow", Action = "s3:ListBucket", Resource = var.bucket_arns },
      {
        Sid      = "UseTheKey"
        Effect   = "Allow"
        Action   = ["kms:Decrypt", "kms:GenerateDataKey"]
        Resource = var.kms_key_arn
      },
    ]
  })
}

resource "aws_iam_instance_profile" "box" {
  name = "${var.name}-devbox"
  role = aws_iam_role.box.name
}
